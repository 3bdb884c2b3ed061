//! The program on interfaces.

use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};
use xdp_lb::dataplane::{AttachError, Loaded, Mode, Program, Setup, Shape, attach, ethtool, load};
use xdp_lb::model::AttachMode;
use xdp_lb::netlink::{Requests, links};
use xdp_lb::state::{MapOp, Maps as _};
use xdp_lb_common::backend::Template;

use crate::fill::{XDP_DROP, XDP_REDIRECT, fill, run, template, udp};
use crate::stand::{TempRoot, command, in_namespace, limits, make_pair, open, setup, skip};

#[test]
fn a_link_outlives_its_maker_and_is_updated_in_place() {
    in_namespace(|root| {
        let first = {
            let mut loaded = open(root);
            attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Auto, false).unwrap()
        };
        assert_eq!((first.mode, first.updated), (Mode::Native, false));
        assert_eq!(attach::attached(root).unwrap(), std::slice::from_ref(&first));

        let mut loaded = open(root);
        let second = attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Auto, false).unwrap();
        assert_eq!((second.mode, second.updated), (Mode::Native, true));
        assert_ne!(second.program, first.program, "the new program runs");

        let generic =
            attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Generic, false).unwrap();
        assert_eq!((generic.mode, generic.updated), (Mode::Generic, false));
        let dotted =
            attach::attach(root, loaded.program().unwrap(), "v1.100", AttachMode::Native, false).unwrap();
        assert_eq!(dotted.mode, Mode::Native);
        let names = |all: Vec<attach::Attached>| all.into_iter().map(|a| a.interface).collect::<Vec<_>>();
        assert_eq!(names(attach::attached(root).unwrap()), ["v0", "v1.100"]);

        assert!(attach::detach(root, "v0").unwrap());
        assert!(!attach::detach(root, "v0").unwrap());
        assert_eq!(attach::detach_all(root).unwrap(), ["v1.100"]);
        assert!(attach::attached(root).unwrap().is_empty());
        assert!(!command("ip", "-d link show").contains("prog/xdp"), "nothing is left on an interface");
        drop(loaded);
        load::remove(root).unwrap();
        assert!(!root.path().exists());
    });
}

#[test]
fn another_interface_is_a_redirect() {
    in_namespace(|root| {
        let mut loaded = open(root);
        let mut maps = loaded.maps().unwrap();
        fill(&mut maps);
        let ifindex = xdp_lb::dataplane::sys::ifindex("v0").unwrap();
        for index in 0..2 {
            let template = Box::new(Template { ifindex, ..template(index) });
            maps.apply(&MapOp::SetTemplate { index, template }).unwrap();
        }
        assert_eq!(run(&mut loaded, &udp(40_000)).0, XDP_DROP, "nobody allowed the interface");
        maps.apply(&MapOp::PutTxPort { ifindex }).unwrap();
        assert_eq!(maps.observe().tx_ports, [ifindex].into());
        assert_eq!(run(&mut loaded, &udp(40_000)).0, XDP_REDIRECT);
        maps.apply(&MapOp::DropTxPort { ifindex }).unwrap();
        maps.apply(&MapOp::DropTxPort { ifindex }).unwrap();
        assert!(maps.observe().tx_ports.is_empty());
        assert_eq!(run(&mut loaded, &udp(40_000)).0, XDP_DROP);
        let beyond = maps.capacity().tx_ports;
        assert!(maps.apply(&MapOp::PutTxPort { ifindex: beyond }).is_err());
        assert!(maps.apply(&MapOp::DropTxPort { ifindex: beyond }).is_err());
    });
}

#[test]
fn an_interface_that_came_back_is_attached_anew() {
    in_namespace(|root| {
        let mut loaded = open(root);
        let first = attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Native, false).unwrap();
        command("ip", "link del v0");
        assert!(attach::attached(root).unwrap().is_empty());
        let gone =
            attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Native, false).unwrap_err();
        assert!(matches!(gone, AttachError::NoInterface(_)), "{gone}");
        make_pair();
        let again = attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Native, false).unwrap();
        assert!(!again.updated && again.ifindex != first.ifindex);
        assert_eq!(attach::attached(root).unwrap(), [again]);
    });
}

#[test]
fn a_foreign_program_is_refused_by_name_and_replaced_on_demand() {
    in_namespace(|root| {
        // Somebody else's: the decap program under another root, once on a link and once without.
        let other = TempRoot::new();
        let shape = Shape::decap_only(&limits(), load::machine().unwrap());
        let theirs = Setup { shape, seed: 0, program: Program::Decap, trace: false, frags: false };
        let mut foreign = Loaded::open_or_create(&other, &theirs).unwrap();
        let mut ours = open(root);
        for by_link in [true, false] {
            if by_link {
                attach::attach(&other, foreign.program().unwrap(), "v0", AttachMode::Native, false).unwrap();
            } else {
                attach::detach(&other, "v0").unwrap();
                attach::detach(root, "v0").unwrap();
                let prog = other.program();
                command("ip", &format!("link set v0 xdpdrv pinned {}", prog.display()));
            }
            let refused =
                attach::attach(root, ours.program().unwrap(), "v0", AttachMode::Auto, false).unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, AttachError::Foreign { .. }) && text.contains("xdp_decap"), "{text}");
            let replaced =
                attach::attach(root, ours.program().unwrap(), "v0", AttachMode::Auto, true).unwrap();
            assert!(!replaced.updated);
            assert_eq!(attach::attached(root).unwrap(), [replaced]);
        }
        assert!(attach::attached(&other).unwrap().is_empty());
    });
}

/// A page does not hold 9000 bytes, and the kernel says no more than "Numerical result out of range".
#[test]
fn a_large_mtu_is_named_when_native_mode_is_refused() {
    in_namespace(|root| {
        let mut loaded = open(root);
        command("ip", "link set p0 mtu 9000");
        command("ip", "link set v0 mtu 9000");
        let program = loaded.program().unwrap();
        let refused = attach::attach(root, program, "v0", AttachMode::Native, false).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("its MTU of 9000 is too large") && text.contains("mtu 3498"), "{text}");
        let auto = attach::attach(root, program, "v0", AttachMode::Auto, false).unwrap();
        assert_eq!(auto.mode, Mode::Generic);
        attach::detach(root, "v0").unwrap();
        // The cure works.
        command("ip", "link set p0 mtu 3498");
        command("ip", "link set v0 mtu 3498");
        let native = attach::attach(root, program, "v0", AttachMode::Native, false).unwrap();
        assert_eq!(native.mode, Mode::Native);
    });
}

/// A program that understands several buffers runs where one is too small.
#[test]
fn a_large_mtu_takes_a_program_for_several_buffers() {
    if !load::knows_frags() {
        return skip("the kernel knows XDP with one buffer alone; Linux 5.18 knows more");
    }
    in_namespace(|root| {
        let mut loaded = Loaded::open_or_create(root, &Setup { frags: true, ..setup() }).unwrap();
        command("ip", "link set p0 mtu 9000");
        command("ip", "link set v0 mtu 9000");
        let program = loaded.program().unwrap();
        let native = attach::attach(root, program, "v0", AttachMode::Native, false).unwrap();
        assert_eq!(native.mode, Mode::Native);
    });
}

/// What is said of a veth depends on its other end, which may be out of sight.
#[test]
fn the_other_end_of_a_veth_is_looked_at_where_it_can_be_seen() {
    in_namespace(|_| {
        let links = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { links::links(&Requests::open().unwrap()).await.unwrap() })
        };
        let said = |native| {
            let all = ethtool::findings("v0", native, &links()).unwrap();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        ethtool::switch("v0", ethtool::Offload::Gro, false).unwrap();
        assert!(said(true)[0].ends_with("ethtool -K p0 tx off"), "{:?}", said(true));
        assert_eq!(said(false), [""; 0], "in generic mode the kernel keeps track");
        ethtool::switch("v0", ethtool::Offload::Gro, true).unwrap();
        assert!(said(false)[0].contains("ethtool -K v0 gro off"), "{:?}", said(false));
        ethtool::switch("p0", ethtool::Offload::Checksum, false).unwrap();
        assert_eq!(said(true), [""; 0]);
        // Gone to the namespace of a thread that waits.
        let (there, here) = (mpsc::channel(), mpsc::channel::<()>());
        let (tell, ended) = (there.0, here.1);
        let other = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            let _ = ended.recv();
        });
        command("ip", &format!("link set p0 netns {}", there.1.recv().unwrap()));
        let unseen = said(true);
        drop(here.0);
        other.join().unwrap();
        assert!(unseen[0].contains("in another network namespace"), "{unseen:?}");
    });
}

#[test]
fn what_cards_do_to_packets_is_read_from_the_kernel() {
    in_namespace(|_| {
        let card = ethtool::look("v0").unwrap();
        assert_eq!(card.driver, "veth");
        assert!(card.features.contains("tx-checksum-ip-generic"), "{card:?}");
        ethtool::switch("v0", ethtool::Offload::Checksum, false).unwrap();
        let off = ethtool::look("v0").unwrap();
        assert!(!off.features.contains("tx-checksum-ip-generic"), "{off:?}");
        assert!(ethtool::look("lo").is_ok());
        assert_eq!(ethtool::look("v9").unwrap_err().raw_os_error(), Some(19), "ENODEV");
    });
}
