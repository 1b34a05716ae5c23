//! One plugin against the other: what one seals the other opens, and hashes and MACs are equal.

use std::sync::Arc;

use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo};
use proptest::{
    collection::vec,
    prelude::{any, prop_assert_eq},
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::subjects::{self, COMMON, PLUGINS};

const MAX: usize = 4096;
const CASES: u32 = 64;

#[tokio::test]
async fn the_plugins_agree() {
    let hosts = [subjects::load(PLUGINS[0]).await, subjects::load(PLUGINS[1]).await];
    let mut common = hosts[0].suites();
    common.retain(|id| hosts[1].suites().contains(id));
    assert!(COMMON.iter().all(|id| common.contains(id)), "{common:?}");
    let implementations = hosts.each_ref().map(|host| host.suite(COMMON[0]).unwrap().info().implementation);
    assert_ne!(implementations[0], implementations[1]);
    for id in common {
        let suites = hosts.each_ref().map(|host| host.suite(id).unwrap());
        assert_eq!(
            (suites[0].info().name, suites[0].info().hash_len),
            (suites[1].info().name, suites[1].info().hash_len)
        );
        let input = (
            any::<[u8; 32]>(),
            any::<[u8; 12]>(),
            vec(any::<u8>(), 0..=MAX),
            vec(any::<u8>(), 0..=MAX),
            any::<usize>(),
        );
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        runner
            .run(&input, |(key, nonce, aad, text, at)| agree(&suites, key, nonce, &aad, &text, at))
            .unwrap_or_else(|error| panic!("suite {id:#06x}: {error}"));
    }
}

fn agree(
    suites: &[Arc<dyn CipherSuite>; 2],
    key: [u8; 32],
    nonce: [u8; 12],
    aad: &[u8],
    text: &[u8],
    at: usize,
) -> Result<(), TestCaseError> {
    let len = suites[0].info().hash_len;
    let results = suites.each_ref().map(|suite| {
        let (mut hash, mut mac, mut sealed) = (vec![0; len], vec![0; len], vec![0; text.len() + SuiteInfo::TAG_LEN]);
        suite.hash(text, &mut hash).unwrap();
        // A key of any length.
        suite.mac(aad, text, &mut mac).unwrap();
        suite.seal(&key, &nonce, aad, text, &mut sealed).unwrap();
        (hash, mac, sealed)
    });
    prop_assert_eq!(&results[0], &results[1]);
    let mut sealed = results[0].2.clone();
    let at = at % sealed.len();
    for suite in suites {
        let mut opened = vec![0; text.len()];
        prop_assert_eq!(suite.open(&key, &nonce, aad, &sealed, &mut opened), Ok(()));
        prop_assert_eq!(&opened, text);
    }
    sealed[at] ^= 1;
    for suite in suites {
        let mut opened = text.to_vec();
        prop_assert_eq!(suite.open(&key, &nonce, aad, &sealed, &mut opened), Err(CipherError::Rejected));
        prop_assert_eq!(opened, vec![0; text.len()]);
    }
    Ok(())
}
