-- Judges uses of counters in order, and records the fresh ones.
-- A row is a member of its line's sorted set: 8 bytes of counter, 32 of nonce, 6 of seconds.
-- Numbers are compared by the set's order alone: Lua's own would round them, and
-- its texts go by the server's locale.
-- KEYS: the shard's lines; then the rows of each line.
-- ARGV: the second before which a row is old enough to go; then for each use
--   the number of its line, the line itself, its row,
--   from where on a higher counter makes it too old ('' for nowhere),
--   the beginning of its block, and up to where rows may go ('' for nowhere).
-- Returns a letter for each use.

local function first(rows, from)
  return redis.call('ZRANGEBYLEX', rows, from, '+', 'LIMIT', 0, 1)[1]
end

local function seconds(row)
  local a, b, c, d, e, f = string.byte(row, 41, 46)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

local old = tonumber(ARGV[1])
local verdicts = {}
for at = 2, #ARGV, 6 do
  local rows, row = KEYS[1 + tonumber(ARGV[at])], ARGV[at + 2]
  local counter = string.sub(row, 1, 8)
  local found = first(rows, '[' .. counter)
  local verdict
  if found and string.sub(found, 1, 8) == counter then
    verdict = string.sub(found, 9, 40) == string.sub(row, 9, 40) and 'S' or 'O'
  elseif ARGV[at + 3] ~= '' and first(rows, '[' .. ARGV[at + 3]) then
    verdict = 'T'
  else
    verdict = 'F'
    local highest = not found
    local new_block = highest and not first(rows, '[' .. ARGV[at + 4])
    local new_line = highest and redis.call('ZCARD', rows) == 0
    redis.call('ZADD', rows, 0, row)
    if new_line then
      redis.call('ZADD', KEYS[1], 0, ARGV[at + 1])
    elseif new_block and ARGV[at + 5] ~= '' then
      -- Counters rise with time: the lowest are the oldest. They are more than
      -- a block can have brought since the last time, so this keeps up.
      local gone = {}
      for _, low in ipairs(redis.call('ZRANGEBYLEX', rows, '-', '(' .. ARGV[at + 5], 'LIMIT', 0, 256)) do
        if seconds(low) < old then gone[#gone + 1] = low end
      end
      if #gone > 0 then redis.call('ZREM', rows, unpack(gone)) end
    end
  end
  verdicts[#verdicts + 1] = verdict
end
return table.concat(verdicts)
