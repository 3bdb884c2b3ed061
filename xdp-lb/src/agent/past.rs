//! Configurations that were in force: numbered, kept, gone back to. And which one is in force at the start.

use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{error, warn};

use crate::{
    admin::NotDone,
    file::Texts,
    intake::Offer,
    keep::{Entry, History, Keep, KeepError, Origin, Rollback},
};

/// What the agent knows of its past.
pub(super) struct Past {
    history: History,
    /// The text in force.
    current: Texts,
    rollback: Option<Rollback>,
}

impl Past {
    /// What is to be in force at the start: what the files say, unless a rollback has taken just that out of force.
    pub(super) fn start(keep: &Keep, offer: Offer) -> (Self, Offer) {
        let history = keep.history();
        let kept = history.rollback().unwrap_or_else(|e| {
            error!("a rollback that may have been is not known: {e}");
            None
        });
        let current = offer.texts.clone();
        let mut past = Self { history, current, rollback: None };
        let Some(rollback) = kept else { return (past, offer) };
        if rollback.refused != offer.texts {
            // The files have changed since, and count again.
            past.end_rollback();
            return (past, offer);
        }
        match past.get(rollback.generation).and_then(|entry| checked(&entry)) {
            Ok(earlier) => {
                let (file, generation) = (&offer.texts.name, rollback.generation);
                warn!(file, generation, "not in force, as it was rolled back: an earlier generation is");
                past.current = earlier.texts.clone();
                past.rollback = Some(rollback);
                (past, earlier)
            }
            Err(e) => {
                error!("what was rolled back is in force again: {e}");
                (past, offer)
            }
        }
    }

    /// The number that the start's configuration has, where the maps say `in_maps` (0: they are new): its own if it is
    /// what was in force last, else a new one.
    pub(super) fn first(&self, in_maps: u32) -> u32 {
        let last = self.history.generations().unwrap_or_default().last().copied();
        let known = last.and_then(|last| self.history.get(last).ok().flatten());
        let latest = in_maps.max(last.unwrap_or(0));
        match known {
            // Maps that nobody has written down the configuration of: an agent before this one did not.
            None => in_maps.max(1),
            Some(entry) if entry.generation == in_maps && entry.texts == self.current => in_maps,
            Some(_) => latest + 1,
        }
    }

    /// A configuration is in force.
    pub(super) fn note(&mut self, generation: u32, texts: Texts, origin: Origin) {
        let applied = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if self.get(generation).is_err() {
            let entry = Entry { generation, applied, origin, texts: texts.clone() };
            if let Err(e) = self.history.put(&entry) {
                error!("generation {generation} cannot be gone back to later: {e}");
            }
        }
        let before = std::mem::replace(&mut self.current, texts);
        match origin {
            Origin::File => self.end_rollback(),
            Origin::Rollback(of) => {
                let refused = self.rollback.take().map_or(before, |rollback| rollback.refused);
                let rollback = Rollback { refused, generation: of };
                if rollback.refused == self.current {
                    return self.end_rollback();
                }
                if let Err(e) = self.history.set_rollback(Some(&rollback)) {
                    error!("the next start will not know of the rollback: {e}");
                }
                self.rollback = Some(rollback);
            }
        }
    }

    fn end_rollback(&mut self) {
        self.rollback = None;
        if let Err(e) = self.history.set_rollback(None) {
            error!("a rollback that is over is still noted: {e}");
        }
    }

    /// The text in force.
    pub(super) fn current(&self) -> &Texts {
        &self.current
    }

    /// Whether this is the text in force.
    pub(super) fn is_current(&self, texts: &Texts) -> bool {
        self.current == *texts
    }

    /// The rollback in force.
    pub(super) fn rollback(&self) -> Option<&Rollback> {
        self.rollback.as_ref()
    }

    /// What to go back to from generation `current`, checked anew: `wanted`, or the latest text before this one that is
    /// another.
    pub(super) fn earlier(&self, wanted: Option<u32>, current: u32) -> Result<(u32, Offer), NotDone> {
        let entry = match wanted {
            Some(generation) => self.get(generation)?,
            None => self.before(current)?,
        };
        Ok((entry.generation, checked(&entry)?))
    }

    fn before(&self, current: u32) -> Result<Entry, NotDone> {
        // Who goes back twice goes back further.
        let from = self.rollback.as_ref().map_or(current, |rollback| rollback.generation);
        let generations = self.history.generations().map_err(unreadable)?;
        for &generation in generations.iter().rev().filter(|&&generation| generation < from) {
            let entry = self.get(generation)?;
            if entry.texts != self.current && self.rollback.as_ref().is_none_or(|r| r.refused != entry.texts)
            {
                return Ok(entry);
            }
        }
        Err(NotDone::NoEarlier)
    }

    fn get(&self, generation: u32) -> Result<Entry, NotDone> {
        self.history.get(generation).map_err(unreadable)?.ok_or(NotDone::NoGeneration(generation))
    }
}

fn unreadable(error: KeepError) -> NotDone {
    NotDone::History(error.to_string())
}

/// What a text of the past asks for, by the rules of today.
fn checked(entry: &Entry) -> Result<Offer, NotDone> {
    let texts = entry.texts.clone();
    match texts.check() {
        Ok(checked) => Ok(Offer { texts, checked }),
        Err(e) => Err(NotDone::Refused { generation: entry.generation, why: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "version: 1\ninterfaces: [{ name: eth0 }]\nencap: { source_v4: 172.16.0.0/16 }\nservices: []\n";

    fn offer(n: u32) -> Offer {
        let texts = Texts::one("edge.yaml", &format!("{GOOD}# {n}\n"));
        Offer { checked: texts.check().unwrap(), texts }
    }

    fn keep(name: &str) -> Keep {
        let dir = std::env::temp_dir().join(format!("xdp-lb-past-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Keep::at(&dir)
    }

    /// Starts with text `n` over maps of a generation; the agent's own number for it.
    fn start(keep: &Keep, n: u32, in_maps: u32) -> (Past, u32, Texts) {
        let (mut past, offer) = Past::start(keep, offer(n));
        let generation = past.first(in_maps);
        past.note(generation, offer.texts.clone(), Origin::File);
        (past, generation, offer.texts)
    }

    #[test]
    fn a_start_with_the_same_text_is_no_new_generation() {
        let keep = keep("start");
        assert_eq!(start(&keep, 1, 0).1, 1);
        assert_eq!(start(&keep, 1, 1).1, 1, "the agent came again");
        assert_eq!(start(&keep, 2, 1).1, 2, "the file changed meanwhile");
        assert_eq!(start(&keep, 2, 0).1, 3, "new maps: numbers go on");
        let nothing_kept = self::keep("start-unknown");
        assert_eq!(start(&nothing_kept, 1, 7).1, 7, "maps of an agent that kept nothing");
        std::fs::remove_dir_all(keep.path()).unwrap();
        std::fs::remove_dir_all(nothing_kept.path()).unwrap();
    }

    #[test]
    fn going_back_twice_goes_back_further_and_outlives_a_restart() {
        let keep = keep("back");
        let (mut past, ..) = start(&keep, 1, 0);
        past.note(2, offer(2).texts, Origin::File);
        past.note(3, offer(2).texts, Origin::File);
        past.note(4, offer(3).texts, Origin::File);
        assert_eq!(past.earlier(None, 4).unwrap().0, 3);
        let (of, back) = past.earlier(None, 4).unwrap();
        past.note(5, back.texts, Origin::Rollback(of));
        let (of, back) = past.earlier(None, 5).unwrap();
        assert_eq!((of, &back.texts), (1, &offer(1).texts), "2 has the same text as 3");
        past.note(6, back.texts, Origin::Rollback(of));
        assert_eq!(past.earlier(None, 6).unwrap_err(), NotDone::NoEarlier);
        assert_eq!(past.earlier(Some(9), 6).unwrap_err(), NotDone::NoGeneration(9));

        // The file still says 3, and is not in force.
        let (again, given) = Past::start(&keep, offer(3));
        assert_eq!((given.texts, again.first(6)), (offer(1).texts, 6));
        assert_eq!(again.rollback().unwrap().generation, 1);
        // It has changed: it counts again, also after another start.
        let (again, given) = Past::start(&keep, offer(4));
        assert_eq!((given.texts, again.first(6), again.rollback()), (offer(4).texts, 7, None));
        let (_, given) = Past::start(&keep, offer(3));
        assert_eq!(given.texts, offer(3).texts);
        std::fs::remove_dir_all(keep.path()).unwrap();
    }

    #[test]
    fn going_forward_to_what_the_file_says_ends_a_rollback() {
        let keep = keep("forward");
        let (mut past, ..) = start(&keep, 1, 0);
        past.note(2, offer(2).texts, Origin::File);
        past.note(3, offer(1).texts, Origin::Rollback(1));
        assert!(past.rollback().is_some());
        past.note(4, offer(2).texts, Origin::Rollback(2));
        assert_eq!(past.rollback(), None);
        std::fs::remove_dir_all(keep.path()).unwrap();
    }
}
