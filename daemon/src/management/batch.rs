//! Gathering: concurrent calls share one trip to the store.
//!
//! While a batch is out, new calls collect; when it comes back, all of them
//! leave together. A lone call waits for nothing.

use std::{future::Future, sync::Arc};

use claviger_plugin_api::PluginError;
use tokio::sync::{mpsc, oneshot};

/// Hands items to a worker that processes them in batches.
#[derive(Debug, Clone)]
pub struct Batcher<Item, Answer> {
    queue: mpsc::Sender<(Item, Reply<Answer>)>,
}

type Reply<Answer> = oneshot::Sender<Result<Answer, PluginError>>;

impl<Item, Answer> Batcher<Item, Answer>
where
    Item: Send + 'static,
    Answer: Send + 'static,
{
    /// Starts the worker. `run` gets 1 to [`MAX_BATCH`] items and answers each
    /// in order. Batches that it can have under way at once: `parallel`.
    /// `step` is the label of the batch size histogram. The worker ends when
    /// the last clone of the batcher is dropped.
    pub fn start<F, Fut>(step: &'static str, parallel: usize, run: F) -> Self
    where
        F: Fn(Vec<Item>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Answer>, PluginError>> + Send + 'static,
    {
        let (queue, mut incoming) = mpsc::channel::<(Item, Reply<Answer>)>(QUEUE);
        let size = metrics::histogram!("claviger_reply_processor_batch_size", "step" => step);
        let run = Arc::new(run);
        let slots = Arc::new(tokio::sync::Semaphore::new(parallel));
        tokio::spawn(async move {
            let mut gathered = Vec::new();
            loop {
                // First a free slot, then whatever has arrived by then.
                let Ok(slot) = slots.clone().acquire_owned().await else { return };
                if incoming.recv_many(&mut gathered, MAX_BATCH).await == 0 {
                    return;
                }
                let (items, replies): (Vec<_>, Vec<_>) = gathered.drain(..).unzip();
                size.record(items.len() as f64);
                let run = run.clone();
                tokio::spawn(async move {
                    let answers = run(items).await;
                    drop(slot);
                    deliver(answers, replies);
                });
            }
        });
        Self { queue }
    }

    /// Hands in one item and awaits its answer. A full queue is `Busy`.
    pub async fn call(&self, item: Item) -> Result<Answer, PluginError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((item, reply)).map_err(|_| PluginError::Busy)?;
        answer.await.unwrap_or_else(|_| Err(PluginError::Unavailable("the batch was lost".into())))
    }
}

/// The largest batch.
pub const MAX_BATCH: usize = 512;
const QUEUE: usize = 8192;

fn deliver<Answer>(answers: Result<Vec<Answer>, PluginError>, replies: Vec<Reply<Answer>>) {
    match answers {
        Ok(answers) if answers.len() == replies.len() => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                let _ = reply.send(Ok(answer)); // whoever asked may have gone
            }
        }
        Ok(_) => refuse(&PluginError::Corrupt("a batch with the wrong number of answers".into()), replies),
        Err(error) => refuse(&error, replies),
    }
}

fn refuse<Answer>(error: &PluginError, replies: Vec<Reply<Answer>>) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn calls_that_arrive_meanwhile_leave_together() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let batcher = Batcher::start("test", 1, move |items: Vec<u32>| {
            seen.lock().unwrap().push(items.len());
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(items.into_iter().map(|i| i * 2).collect())
            }
        });
        let calls = (0..100).map(|i| {
            let batcher = batcher.clone();
            async move { assert_eq!(batcher.call(i).await.unwrap(), i * 2) }
        });
        futures_util::future::join_all(calls).await;
        assert_eq!(sizes.lock().unwrap().iter().sum::<usize>(), 100);
        assert!(sizes.lock().unwrap().len() <= 3, "{sizes:?}");
    }

    #[tokio::test]
    async fn a_failed_batch_fails_each_of_its_calls_and_no_other() {
        let runs = Arc::new(AtomicUsize::new(0));
        let batcher = Batcher::start("test", 1, move |items: Vec<u32>| {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            async move { if run == 0 { Err(PluginError::Unavailable("away".into())) } else { Ok(items) } }
        });
        assert!(matches!(batcher.call(1).await, Err(PluginError::Unavailable(_))));
        assert_eq!(batcher.call(2).await, Ok(2));
    }
}
