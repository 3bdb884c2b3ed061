//! The kernel/user ABI of xdp-lb.
#![no_std]
