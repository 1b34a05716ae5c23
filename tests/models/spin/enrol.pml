/* Enrolment: a code for one use, four messages, a network that loses, delays and reorders, while the
 * terminal dies and starts again. Keys are numbers.
 * Shown: when T believes that it is enrolled, M has activated exactly the key that T stored; and until
 * then the code can still be used, or M is active with T's key. A code is never burnt for nothing.
 *   -DDUP              the network duplicates as well
 *   -DNREQ=n           requests that T may send
 *   -DBUG_BURN_ON_E1   the code is burnt when E1 is answered
 *   -DBUG_FORGET       T erases its stored key when it starts again with E1 */
#ifndef NREQ
#define NREQ 6
#endif
#define NONE 0
mtype = { E1, E2, E3, E4, FAIL };
byte t_key = NONE, t_out = NONE, m_pend = NONE, m_act = NONE, fresh = 1, sent = 0, rid = 0;
bool burnt = false, t_done = false;
chan up = [3] of { mtype, byte };
chan down = [3] of { mtype, byte, byte };

#define INV ((!t_done || m_act == t_key) && (!burnt || (m_act == t_key && t_key != NONE)))

inline answer(a, b, c) { if :: full(down) -> skip :: nfull(down) -> down ! a, b, c :: skip fi }

active proctype M() { byte x;
end: do
  :: atomic { up ?? E1, x ->
       if
       :: !burnt -> m_pend = fresh; fresh++;
#ifdef BUG_BURN_ON_E1
          burnt = true; m_act = m_pend;
#endif
          answer(E2, m_pend, x)
       :: else -> answer(FAIL, 0, x)
       fi; assert(INV) }
  :: atomic { up ?? E3, x ->
       if
       :: !burnt && x == m_pend && x != NONE -> m_act = x; burnt = true; m_pend = NONE; answer(E4, x, 0)
       :: burnt && x == m_act -> answer(E4, x, 0)                        /* the same answer again */
       :: else -> answer(FAIL, 0, 0)
       fi; assert(INV) }
  od }

active proctype T() { byte k, x;
end: do
  :: atomic { !t_done && sent < NREQ && nfull(up) -> sent++; rid++; t_out = rid;
#ifdef BUG_FORGET
       t_key = NONE;
#endif
       up ! E1, rid; assert(INV) }
  :: atomic { !t_done && t_key != NONE && sent < NREQ && nfull(up) -> sent++; up ! E3, t_key }
  :: atomic { down ?? E2, k, x -> if :: x == t_out && x != NONE -> t_key = k; t_out = NONE :: else -> skip fi; assert(INV) }
  :: atomic { down ?? E4, k, x -> if :: k == t_key && k != NONE -> t_done = true; t_out = NONE :: else -> skip fi; assert(INV) }
  :: atomic { down ?? FAIL, k, x -> skip }
  :: atomic { t_out != NONE -> t_out = NONE }                            /* dies and starts again */
  od }

active proctype Network() { mtype m; byte a, b; byte ndup = 0;
end: do
  :: atomic { nempty(up) -> up ?? m, a }                                 /* lose */
  :: atomic { nempty(down) -> down ?? m, a, b }
  :: atomic { len(up) > 1 -> up ? m, a; up ! m, a }                      /* reorder */
  :: atomic { len(down) > 1 -> down ? m, a, b; down ! m, a, b }
#ifdef DUP
  :: atomic { nempty(up) && nfull(up) && ndup < 2 -> up ? <m, a>; up ! m, a; ndup++ }
  :: atomic { nempty(down) && nfull(down) && ndup < 2 -> down ? <m, a, b>; down ! m, a, b; ndup++ }
#endif
  od }
