//! The rules of the protocol, each of which can be taken out.

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// A rule. `broken.rs` has the test that shows what it is for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            pub fn all() -> impl Iterator<Item = Rule> {
                [$(Rule::$rule),*].into_iter()
            }
        }
    };
}

rules! {
    /// Versions are made on Redis's clock, not on each machine's own.
    RedisClock,
    /// A clock goes on from every version that its node has seen.
    ClockMerges,
    /// A write exceeds the version that its node knows of the id, however far ahead that is.
    ExceedsKnown,
    /// A node draws a new name at each open, so that a copied directory does not make two of one name.
    NameIsDrawn,

    /// What cannot be sent (Redis is full, or the record breaks the connection) holds back no other id.
    OrderIsPerId,
    /// A delete passes when Redis is out of memory: DEL first, then the tombstone.
    DeletePassesFullRedis,
    /// A write gets through only where nothing newer stands.
    GuardedWrite,
    /// A write is named in the stream after it is carried out, whether or not it was named before.
    NamedAfterwards,
    /// A repeat that finds its own version standing is named all the same.
    RepeatIsNamed,
    /// What Redis refuses as older is dropped here.
    RefusedIsDropped,
    /// What is acknowledged stays dirty for a while.
    SettleLater,
    /// It settles only on proof from today's master.
    SettleOnProof,
    /// After a reconnect all that is unsettled is pushed again.
    PushedAgain,
    /// The deletes among it too.
    DeletesPushedAgain,
    /// After a reconnect, events are heard to the end before anything is pushed.
    HearFirst,
    /// What cannot be read just now is held, not skipped.
    UnreadableIsHeld,

    /// An event drops an older object.
    EventDrops,
    /// Also where that is dirty.
    EventDropsDirty,
    /// A fetch under way remembers what events name; an older copy is fetched again.
    FlightRemembers,
    /// It remembers this node's own puts as well.
    FlightRemembersOwn,
    /// A fetch under way when the stream has lost its past is fetched again.
    FlightDoubted,
    /// Who waits registers first, then fetches.
    RegisterFirst,
    /// Who waits is looked after again.
    Recheck,
    /// The entry of the cursor is asked for, so that a lost past is noticed.
    LostPastNoticed,
    /// A reader without a cursor writes an entry to have one.
    Hello,
    /// What was dirty when the past was lost is suspect too, once it has settled.
    UnsettledSuspects,
    /// What was pushed and has not settled is checked like what is clean.
    SettlingSuspects,
    /// Suspects are persisted no later than the cursor that made them.
    SuspectsPersist,
    /// A suspect that Redis lost is kept and pushed.
    LostSuspectKept,
    /// Unless the node was out of step for longer than tombstones last.
    LongLostSuspectDropped,
    /// A suspect answers no want before it is checked.
    SuspectAnswersNoWant,
    /// A node that hears nothing treats what is clean as suspect.
    DeafSuspects,
    /// Who waits in vain asks the other nodes to push again.
    Want,
    /// When Redis has lost everything, everything is dirty again.
    EpochMakesDirty,
    /// An acknowledgement belongs to the epoch in which the write was sent.
    AckOfEpoch,
    /// A put that gets through though a later delete is known: the delete is pushed again.
    DeleteRepeated,
    /// Where values have no version: a dirty put that a delete overtakes becomes that delete, as it may have reached Redis after it.
    OvertakenBecomesDelete,
    /// There, deletes are pushed again after a lost past: a put may have come after them unheard.
    LostPastRepeatsDeletes,
    /// A delete that is pushed again is dirty until it has settled again.
    RepeatIsDirty,
    /// A want is answered when the stream is heard to its end.
    WantAfterHearing,
    /// Drops are journaled.
    DropJournaled,
    /// The cursor is persisted only after the drops that it caused.
    CursorAfterDrops,

    /// A delete of what is not held here is journaled and pushed all the same.
    BlindDelete,
    /// The node that deletes keeps the tombstone.
    OwnTombstone,
    /// At least until it is settled.
    TombstoneUntilSettled,
    /// Who asked before a local delete is answered by the fetch already under way.
    EarlyAnswered,
    /// But not with what the node knew to be deleted before that.
    EarlyIsNewer,
    /// What that fetch brings stays out of the index.
    EarlyNotKept,
    /// A delete is pushed after the fetch of its id that is under way.
    DeleteAfterFetch,

    /// Only what is clean is evicted.
    EvictClean,
    /// A fill compares versions with what is here.
    FillCompares,
    /// Values without a version, whose writers send no events, are not kept.
    NoForeignFill,
}

/// The rules that hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    without: u64,
}

impl Rules {
    pub fn without(rules: &[Rule]) -> Rules {
        Rules { without: rules.iter().fold(0, |without, rule| without | 1 << *rule as u8) }
    }

    pub fn has(self, rule: Rule) -> bool {
        self.without & (1 << rule as u8) == 0
    }
}
