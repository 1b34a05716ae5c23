-- Forgets lines of counters.
-- KEYS: the shard's lines; then the rows of each line.
-- ARGV: each line.

for number, line in ipairs(ARGV) do
  redis.call('UNLINK', KEYS[1 + number])
  redis.call('ZREM', KEYS[1], line)
end
return #ARGV
