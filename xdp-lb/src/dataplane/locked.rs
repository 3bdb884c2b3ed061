//! The limit on locked memory, which Linux before 5.11 counts maps and programs against, in words that an operator can act on.

use std::{error::Error, io};

use aya::util::KernelVersion;

/// The first kernel that counts them in the control group's memory instead.
const COUNTED_OTHERWISE: KernelVersion = KernelVersion::new(5, 11, 0);

/// Whether a limit explains why the kernel did not make a map or take a program.
pub fn explains(errno: Option<i32>, kernel: Option<KernelVersion>) -> bool {
    errno == Some(libc::EPERM) && kernel.is_some_and(|kernel| kernel < COUNTED_OTHERWISE)
}

/// What to do about a limit of so many bytes, which the agent may not lift.
pub fn cure(limit: u64) -> String {
    format!(
        "this kernel, older than Linux 5.11, counts BPF maps as locked memory, of which {} KiB are allowed here, and the \
         agent may not allow itself more: `LimitMEMLOCK=infinity` in its systemd unit, `ulimit -l unlimited` before it \
         starts, or the capability CAP_SYS_RESOURCE",
        limit / 1024
    )
}

/// The kernel's word at the bottom of an error.
pub fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::LoadError;

    #[test]
    fn only_a_refusal_by_an_old_kernel_is_explained() {
        let (old, new) = (KernelVersion::new(5, 10, 250), KernelVersion::new(5, 11, 0));
        assert!(explains(Some(libc::EPERM), Some(old)));
        assert!(!explains(Some(libc::EPERM), Some(new)));
        assert!(!explains(Some(libc::EPERM), None));
        assert!(!explains(Some(libc::ENOMEM), Some(old)));
        assert!(!explains(None, Some(old)));
    }

    #[test]
    fn the_kernels_word_is_found_below_and_its_cure_is_said() {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let error = LoadError::Map { name: "flows", source };
        assert_eq!(errno(&error), Some(libc::EPERM));
        let said = LoadError::LockedMemory { source: Box::new(error), limit: 65_536 }.to_string();
        assert!(said.starts_with("map flows: ") && said.contains("64 KiB"), "{said}");
        assert!(said.contains("LimitMEMLOCK=infinity"), "{said}");
    }
}
