/* At most one note is ever sealed for an envelope.
 * A note's key and nonce are derived from the envelope alone, so a second note for the same bytes would
 * put two plaintexts under one key and nonce. Who may hold the bytes (a service, the network) sends
 * them to M as often as it likes, in any order, to several replicas of M on one store; M may die
 * before it seals. Some counters come twice: two live copies of a credential, or a restored one.
 * Whether an envelope's time lies within the window is left open at each judgement, which covers
 * every clock.
 *   -DBUG_REPLAY    the answer to a replay carries a note
 *   -DBUG_CLONE     each answer to a clone does, not only the one that suspends the credential
 *   -DBUG_TOO_OLD   so does the answer to a counter below the window, whose row is gone
 *   -DBUG_FLOOR     so does a refusal that comes before the counter was recorded
 *   -DBUG_RESUME    an administrator lifts a clone's suspension without a new enrolment
 *   -DBUG_LOST      the store loses its newest row (a power cut, and commits that were not synced) */
#define COUNTERS 4
#define COPY 2                      /* envelopes of the second copy: counters 1..COPY */
#define LAST 6                      /* COUNTERS + COPY envelopes, numbered from 1 */
#define WINDOW 2                    /* stands for 64 */
#define NONE 0
byte row[5];                        /* counter -> the envelope that used it */
byte highest = 0;
bool cloned = false;
byte notes[7];                      /* notes sealed under the key of each envelope */

#define TOO_OLD(k) (highest > WINDOW && k <= highest - WINDOW)
inline seal(e) { notes[e]++; assert(notes[e] <= 1) }
inline record(e, k) {
  row[k] = e;
  if :: k > highest -> highest = k :: else fi;
  for (i : 1 .. COUNTERS) { if :: TOO_OLD(i) -> row[i] = NONE :: else fi }
}
mtype = { FRESH, SAME, OTHER, OLD };

active [2] proctype M() { byte e, k, i; mtype verdict; bool first;
end: do
  :: atomic { select(e : 1 .. LAST); k = e; if :: e > COUNTERS -> k = e - COUNTERS :: else fi }
#ifdef BUG_FLOOR
     if :: atomic { true -> seal(e); goto end } :: true fi;
#endif
     atomic {                                                   /* one transaction */
       if
       :: TOO_OLD(k) -> verdict = OLD
       :: !TOO_OLD(k) && row[k] == NONE -> verdict = FRESH; record(e, k)
       :: !TOO_OLD(k) && row[k] == e -> verdict = SAME
       :: else -> verdict = OTHER
       fi }
     if
     :: true -> goto end                                        /* M dies, or the answer is lost */
     :: verdict == FRESH -> atomic { seal(e) }                  /* granted, skewed or denied alike */
#ifdef BUG_REPLAY
     :: verdict == SAME -> atomic { seal(e) }
#endif
#ifdef BUG_TOO_OLD
     :: verdict == OTHER || verdict == OLD ->
#else
     :: verdict == OTHER ->
#endif
          atomic { first = !cloned; cloned = true }             /* another transaction */
#ifdef BUG_CLONE
          first = true;
#endif
          if :: first -> atomic { seal(e) } :: else fi
     fi
  od }

#ifdef BUG_RESUME
active proctype Administrator() {
end: do :: atomic { cloned -> cloned = false } od }
#endif
#ifdef BUG_LOST
active proctype PowerCut() {
  atomic { highest > 0 -> row[highest] = NONE; highest-- } }
#endif
