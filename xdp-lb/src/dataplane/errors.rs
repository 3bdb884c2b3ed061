//! From aya's errors to the kernel's: what people can act on is the error number, which aya keeps in a cause.

use std::io;

use aya::{
    maps::{MapError, xdp::XdpMapError},
    pin::PinError,
    programs::{ProgramError, XdpError, links::LinkError},
};

/// Of a map operation.
pub fn map(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(e) => e.io_error,
        MapError::OutOfBounds { .. } => outside(),
        other => io::Error::other(other),
    }
}

/// Of a device map operation.
pub fn device_map(error: XdpMapError) -> io::Error {
    match error {
        XdpMapError::MapError(e) => map(e),
        other => io::Error::other(other),
    }
}

/// Of making a pin.
pub fn pin(error: PinError) -> io::Error {
    match error {
        PinError::SyscallError(e) => e.io_error,
        other => io::Error::other(other),
    }
}

/// Of a program operation.
pub fn program(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(e) => e.io_error,
        ProgramError::XdpError(XdpError::NetlinkError(e)) => io::Error::other(e),
        other => io::Error::other(other),
    }
}

/// Of a link operation.
pub fn link(error: LinkError) -> io::Error {
    match error {
        LinkError::SyscallError(e) => e.io_error,
        other => io::Error::other(other),
    }
}

/// An index beyond the end.
pub fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "outside the map")
}
