//! Lets aya copy the shared types in and out of maps. The only place that says `unsafe impl Pod`.
//!
//! Every type here derives `bytemuck::Pod`, which has already refused padding, pointers and niches.

#[cfg(feature = "user")]
macro_rules! pod {
    ($($type:ty),* $(,)?) => { $(
        // SAFETY: the type is `bytemuck::Pod`: repr(C), Copy, no padding, any bit pattern valid.
        unsafe impl aya::Pod for $type {}
        const _: fn() = || { fn is_pod<T: bytemuck::Pod>() {} is_pod::<$type>() };
    )* };
}

#[cfg(feature = "user")]
pod!(
    crate::backend::Backend,
    crate::control::Control,
    crate::cut::CutCounts,
    crate::cut::CutRequest,
    crate::cut::SlowState,
    crate::decap::AllowList,
    crate::flow::Admission,
    crate::flow::FlowSet,
    crate::path_mtu::PathMtu,
    crate::ring::RingWord,
    crate::server_id::Place,
    crate::service::Service,
    crate::stats::Counters,
    crate::stats::Traffic,
    crate::translate::PodFlow,
    crate::translate::PodPeer,
    crate::translate::PodPort,
    crate::vip::PortPage,
    crate::vip::VipSlot,
);
