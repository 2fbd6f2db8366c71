-- Compare-and-swap of one state, with the marks of what was applied.
-- KEYS: state, marks
-- ARGV: 1 expected number, 2 expected commit, 3 how often the application was reset with all its
-- contexts ('': this is the application's own), 4 commit, 5 state, 6 bytes that no mark to be kept
-- is before, 7 how long marks are to live from now (ms), 8 channel, 9 message, 10 marks of 32 bytes each
-- Returns the new number; 0: somebody was first, or a mark is set.
local number, commit, epoch = unpack(redis.call('HMGET', KEYS[1], 'v', 'c', 'e'))
local own = ARGV[3] == ''
if commit and (own or tonumber(epoch or 0) >= tonumber(ARGV[3])) then
  if number ~= ARGV[1] or commit ~= ARGV[2] then return 0 end
elseif ARGV[1] ~= '0' then
  return 0
end

local marks, added = ARGV[10], {}
local after = string.rep('\255', 17)
for from = 1, #marks, 32 do
  local mark = string.sub(marks, from, from + 31)
  local low, high = '[' .. mark, '[' .. mark .. after
  if #redis.call('ZRANGEBYLEX', KEYS[2], low, high, 'LIMIT', 0, 1) > 0 then return 0 end
  added[#added + 1] = '0'
  added[#added + 1] = mark .. ARGV[4]
end
-- Lua takes some thousand arguments at once.
for from = 1, #added, 2000 do
  redis.call('ZADD', KEYS[2], unpack(added, from, math.min(from + 1999, #added)))
end

-- Bounded, so that a pause is not followed by one long script; faster than marks come in.
local room = math.max(2000, #added)
local old = redis.call('ZRANGEBYLEX', KEYS[2], '-', '(' .. ARGV[6], 'LIMIT', 0, room)
if #old > 0 then redis.call('ZREMRANGEBYLEX', KEYS[2], '-', '[' .. old[#old]) end
-- Others may have marks that are to live longer; -1: the set is new.
if #added > 0 and redis.call('PTTL', KEYS[2]) < tonumber(ARGV[7]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end

redis.call('HSET', KEYS[1], 'c', ARGV[4], 'd', ARGV[5])
if not own and tonumber(epoch or 0) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'e', ARGV[3])
end
-- A user without the right to publish is served by polling.
redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return redis.call('HINCRBY', KEYS[1], 'v', 1)
