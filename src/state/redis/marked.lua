-- KEYS: marks. ARGV: 1 marks of 32 bytes each. Returns for each the commit that set it, or ''.
local marks, commits = ARGV[1], {}
local after = string.rep('\255', 17)
for from = 1, #marks, 32 do
  local mark = string.sub(marks, from, from + 31)
  local low, high = '[' .. mark, '[' .. mark .. after
  local found = redis.call('ZRANGEBYLEX', KEYS[1], low, high, 'LIMIT', 0, 1)[1]
  commits[#commits + 1] = found and string.sub(found, 33) or ''
end
return commits
