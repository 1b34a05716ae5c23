-- Replaces a value of the state store, if it is the expected one.
-- KEYS: the value.
-- ARGV: the expected value; the new one; its lifetime in milliseconds.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
