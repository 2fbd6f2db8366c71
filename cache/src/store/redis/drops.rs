//! Which answers are dead, agreed on between front ends (docs/adr/0007-shared-cache.md).
//!
//! Each model version has an epoch, and the epoch is a part of every entry's name: a drop raises
//! it, and nobody who knows the new one can read, or be hit by, what is named by the old one.
//! Epochs only rise, and of two the higher holds, so front ends and Redis may hear of them in any
//! order and forget: whoever knows more tells the other.

use std::collections::HashMap;

use parking_lot::Mutex;
use redis::{RedisResult, aio::ConnectionLike};
use skysail_proto::ModelId;

use crate::CacheKey;

/// First in every name; the number is raised when names or values change their meaning.
const PREFIX: &[u8] = b"skc1:";

/// The hash of all epochs above zero, by tag.
const KEY: &str = "skc1:drops";

/// Hexadecimal, so that SCAN can match on it: a short hash of the model version. Should two have
/// the same, a drop of one drops both; answers are told apart by their whole key all the same.
pub(super) type Tag = [u8; 16];

/// Raises an epoch to `ARGV[2]`. Where it is that high already: to one more if `ARGV[3]` is 1, as
/// a new drop must end what was written since the last. Returns what holds.
const RAISE: &str = "
local told = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local new = tonumber(ARGV[2])
if told >= new then
  if ARGV[3] == '0' then return told end
  new = told + 1
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', new))
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[4])))
return new";

/// What is known of a model version.
#[derive(Debug, Default)]
struct Known {
    epoch: u64,
    /// Dropped here, and Redis has not been told.
    pending: bool,
    /// Redis would not be told.
    refused: bool,
    /// Unknown until it is asked for here.
    model: Option<ModelId>,
}

/// A drop that Redis is to be told of.
struct Pending {
    tag: Tag,
    epoch: u64,
    refused: bool,
}

#[derive(Debug, Default)]
pub(super) struct Drops(Mutex<HashMap<Tag, Known>>);

impl Drops {
    /// The model's tag and epoch.
    pub(super) fn epoch(&self, model: &ModelId) -> (Tag, u64) {
        let tag = tag(model);
        let mut all = self.0.lock();
        let known = all.entry(tag).or_default();
        if known.model.is_none() {
            known.model = Some(model.clone());
        }
        (tag, known.epoch)
    }

    pub(super) fn epoch_of(&self, tag: &Tag) -> u64 {
        self.0.lock().get(tag).map_or(0, |known| known.epoch)
    }

    /// Raises a model's epoch. The clock makes it likely to be above what Redis, which may be out
    /// of reach, holds by now.
    pub(super) fn drop_model(&self, model: &ModelId, wall_ms: u64) {
        let mut all = self.0.lock();
        let known = all.entry(tag(model)).or_default();
        known.model = Some(model.clone());
        known.epoch = wall_ms.max(known.epoch + 1);
        known.pending = true;
    }

    fn pending(&self) -> Vec<Pending> {
        let all = self.0.lock();
        let pending = all.iter().filter(|(_, known)| known.pending);
        let pending = pending.map(|(tag, known)| Pending {
            tag: *tag,
            epoch: known.epoch,
            refused: known.refused,
        });
        pending.collect()
    }

    /// Tells Redis of drops made here. `swept` gets each of them, and once more where Redis was too
    /// full to be told before a sweep made room. `on_drop` as for [`Drops::hear`].
    pub(super) async fn tell(
        &self,
        connection: &mut impl ConnectionLike,
        ttl_ms: u64,
        mut swept: impl FnMut(Tag),
        on_drop: impl Fn(&ModelId),
    ) -> RedisResult<()> {
        for Pending { tag, epoch, refused } in self.pending() {
            if !refused {
                swept(tag);
            }
            match raise(connection, &tag, epoch, true, ttl_ms).await {
                Ok(holds) => {
                    if refused {
                        swept(tag);
                    }
                    self.told(&tag, epoch);
                    // Higher than asked for: others have dropped it since, which is news here.
                    self.raise(&tag, holds, &on_drop);
                }
                Err(error) if error.is_io_error() || error.is_timeout() => return Err(error),
                Err(error) => self.say_refused(&tag, &error),
            }
        }
        Ok(())
    }

    fn told(&self, tag: &Tag, epoch: u64) {
        if let Some(known) = self.0.lock().get_mut(tag) {
            // Dropped once more in the meantime: that is still to be told.
            known.pending = known.epoch != epoch;
            known.refused = false;
        }
    }

    /// Once, though it is tried again every round.
    fn say_refused(&self, tag: &Tag, error: &redis::RedisError) {
        let mut all = self.0.lock();
        let Some(known) = all.get_mut(tag).filter(|known| !known.refused) else { return };
        known.refused = true;
        let model = known.model.as_ref().map(ToString::to_string);
        tracing::warn!(model, %error, "other front ends cannot be told of a drop yet");
    }

    /// Hears of drops made elsewhere, and tells of those that Redis has forgotten. `on_drop` is
    /// called before an epoch is raised.
    pub(super) async fn hear(
        &self,
        connection: &mut impl ConnectionLike,
        ttl_ms: u64,
        on_drop: impl Fn(&ModelId),
    ) -> RedisResult<()> {
        let told: Vec<(Vec<u8>, Vec<u8>)> =
            redis::cmd("HGETALL").arg(KEY).query_async(connection).await?;
        let told: HashMap<Tag, u64> = told.iter().filter_map(|(t, e)| parse(t, e)).collect();
        for (tag, epoch) in &told {
            self.raise(tag, *epoch, &on_drop);
        }
        let forgotten: Vec<(Tag, u64)> = {
            let all = self.0.lock();
            let above = |tag: &Tag, epoch| epoch > told.get(tag).copied().unwrap_or(0);
            let more = all.iter().filter(|(tag, k)| !k.pending && above(tag, k.epoch));
            more.map(|(tag, known)| (*tag, known.epoch)).collect()
        };
        for (tag, epoch) in forgotten {
            // It may be too full for that now; what holds here holds all the same.
            if let Ok(holds) = raise(connection, &tag, epoch, false, ttl_ms).await {
                self.raise(&tag, holds, &on_drop);
            }
        }
        Ok(())
    }

    fn raise(&self, tag: &Tag, epoch: u64, on_drop: &impl Fn(&ModelId)) {
        let model = {
            let mut all = self.0.lock();
            let known = all.entry(*tag).or_default();
            if known.epoch >= epoch {
                return;
            }
            known.model.clone()
        };
        // First what this process keeps itself and is computing: an answer whose computation
        // began before this must not be written under the new epoch.
        if let Some(model) = model {
            on_drop(&model);
        }
        if let Some(known) = self.0.lock().get_mut(tag) {
            known.epoch = known.epoch.max(epoch);
        }
    }
}

async fn raise(
    connection: &mut impl ConnectionLike,
    tag: &Tag,
    epoch: u64,
    again: bool,
    ttl_ms: u64,
) -> RedisResult<u64> {
    let mut eval = redis::cmd("EVAL");
    eval.arg(RAISE).arg(1).arg(KEY).arg(&tag[..]).arg(epoch).arg(u8::from(again)).arg(ttl_ms);
    eval.query_async(connection).await
}

fn parse(tag: &[u8], epoch: &[u8]) -> Option<(Tag, u64)> {
    Some((tag.try_into().ok()?, str::from_utf8(epoch).ok()?.parse().ok()?))
}

fn tag(model: &ModelId) -> Tag {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(model.name.len() as u64).to_le_bytes());
    hasher.update(model.name.as_bytes()).update(model.version.as_bytes());
    let mut tag = Tag::default();
    tag.copy_from_slice(&hasher.finalize().to_hex().as_bytes()[..16]);
    tag
}

/// The name of an answer in Redis.
pub(super) fn entry_name(tag: &Tag, epoch: u64, key: &CacheKey) -> Vec<u8> {
    [PREFIX, tag, b":", &epoch.to_be_bytes(), &key.identity, &key.input].concat()
}

/// What SCAN finds a model's answers by, of all epochs.
pub(super) fn pattern(tag: &Tag) -> Vec<u8> {
    [PREFIX, tag, b":*"].concat()
}

/// The epoch in the name of an answer.
pub(super) fn epoch_in(name: &[u8]) -> Option<u64> {
    let at = PREFIX.len() + size_of::<Tag>() + 1;
    let epoch = name.get(at..at + 8)?;
    Some(u64::from_be_bytes(epoch.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_only_rises() {
        let drops = Drops::default();
        let model = ModelId::new("m", "1");
        let (tag, none) = drops.epoch(&model);
        assert_eq!(none, 0);
        drops.drop_model(&model, 1_000);
        // A clock that was set back.
        drops.drop_model(&model, 10);
        assert_eq!(drops.epoch(&model), (tag, 1_001));
        let called = std::cell::Cell::new(0);
        let on_drop = |_: &ModelId| called.set(called.get() + 1);
        drops.raise(&tag, 900, &on_drop);
        assert_eq!((drops.epoch_of(&tag), called.get()), (1_001, 0));
        drops.raise(&tag, 2_000, &on_drop);
        assert_eq!((drops.epoch_of(&tag), called.get()), (2_000, 1));
    }

    #[test]
    fn names_tell_models_epochs_and_keys_apart() {
        let key = CacheKey { identity: [1; 32], input: [2; 32] };
        let one = tag(&ModelId::new("m", "11"));
        let other = tag(&ModelId::new("m1", "1"));
        assert_ne!(one, other);
        let name = entry_name(&one, 7, &key);
        assert_eq!(epoch_in(&name), Some(7));
        assert_eq!(epoch_in(&name[..24]), None);
        assert_ne!(name, entry_name(&one, 8, &key));
        assert_ne!(name, entry_name(&other, 7, &key));
        assert_eq!(name[..22], pattern(&one)[..22]);
    }
}
