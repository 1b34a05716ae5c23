/* Rotation of the keys in two phases, over a network that loses, delays and reorders, while the
 * terminal dies and starts again. Keys are numbers.
 * Shown: T and M never lose their last common key, whatever is lost, late or forged as a failure.
 *   -DDUP            the network duplicates as well
 *   -DNREQ=n         requests that T may send
 *   -DBUG_ONEPHASE   M forgets the old key as soon as it answers
 *   -DBUG_DISCARD    T drops its pending key when a sign-on under the current one succeeds
 *   -DBUG_ANYRESP    T takes an answer that is not for its outstanding request */
#ifndef NREQ
#define NREQ 5
#endif
#define NONE 0
byte t_cur = 1, t_pend = NONE;      /* durable */
byte t_out = NONE;                  /* volatile: the outstanding request */
byte m_cur = 1, m_pend = NONE, fresh = 2;
byte sent = 0, rid = 0;
mtype = { LOGIN, ROT, OK, RESP, FAIL };
chan up   = [3] of { mtype, byte /*key*/, byte /*request*/ };
chan down = [3] of { mtype, byte /*key or new key*/, byte /*request*/, byte /*under key*/ };

#define INV (t_cur == m_cur || (t_pend != NONE && t_pend == m_cur))

inline answer(a, b, c, d) { if :: full(down) -> skip /* lost */ :: nfull(down) -> down ! a, b, c, d :: skip /* lost */ fi }

active proctype M() { byte k, r;
end: do
  :: atomic { up ?? LOGIN, k, r ->
       if
       :: k == m_pend && k != NONE -> m_cur = m_pend; m_pend = NONE; answer(OK, k, r, k)   /* first use promotes */
       :: k == m_cur -> answer(OK, k, r, k)
       :: else -> answer(FAIL, k, r, k)
       fi; assert(INV) }
  :: atomic { up ?? ROT, k, r ->
       if
       :: k == m_cur && fresh < 250 ->
#ifdef BUG_ONEPHASE
            m_cur = fresh;
#else
            m_pend = fresh;
#endif
            answer(RESP, fresh, r, k); fresh++
       :: else -> answer(FAIL, k, r, k)
       fi; assert(INV) }
  od }

active proctype T() { byte k, r, u;
end: do
  /* send: under the pending key, under the current one as a fallback, or a (new) rotation */
  :: atomic { sent < NREQ && nfull(up) -> sent++; if :: t_pend != NONE -> up ! LOGIN, t_pend, 0 :: else -> up ! LOGIN, t_cur, 0 fi }
  :: atomic { sent < NREQ && nfull(up) -> sent++; up ! LOGIN, t_cur, 0 }
  :: atomic { sent < NREQ && nfull(up) -> sent++; rid++; t_out = rid; up ! ROT, t_cur, rid }
  /* receive */
  :: atomic { down ?? OK, k, r, u ->
       if
       :: k == t_pend && k != NONE -> t_cur = t_pend; t_pend = NONE                        /* the old key is erased */
#ifdef BUG_DISCARD
       :: k == t_cur && t_pend != NONE -> t_pend = NONE
#endif
       :: else -> skip
       fi; assert(INV) }
  :: atomic { down ?? RESP, k, r, u ->
       if
#ifdef BUG_ANYRESP
       :: u == t_cur -> t_pend = k
#else
       :: r == t_out && r != NONE && u == t_cur -> t_pend = k; t_out = NONE                /* durable before its first use */
#endif
       :: else -> skip
       fi; assert(INV) }
  :: atomic { down ?? FAIL, k, r, u -> skip }                                              /* not authenticated: changes nothing */
  :: atomic { t_out != NONE -> t_out = NONE }                                              /* dies and starts again */
  od }

active proctype Network() { mtype m; byte a, b, c; byte ndup = 0;
end: do
  :: atomic { nempty(up) -> up ?? m, a, b }                                                /* lose */
  :: atomic { nempty(down) -> down ?? m, a, b, c }
  :: atomic { len(up) > 1 -> up ? m, a, b; up ! m, a, b }                                  /* reorder */
  :: atomic { len(down) > 1 -> down ? m, a, b, c; down ! m, a, b, c }
#ifdef DUP
  :: atomic { nempty(up) && nfull(up) && ndup < 2 -> up ? <m, a, b>; up ! m, a, b; ndup++ }
  :: atomic { nempty(down) && nfull(down) && ndup < 2 -> down ? <m, a, b, c>; down ! m, a, b, c; ndup++ }
#endif
  od }
