//! GUE through the whole tier: all four pairs of families in both variants, TCP and UDP, taken off by `xdp-lb decap`.

use std::time::Duration;

use anyhow::{Result, ensure};
use xdp_lb_tests::lab::traffic::{DatagramOptions, Datagrams, Load, LoadOptions};
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Options, Tier, files, skip};

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn requests_go_through_gue_to_all_backends() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = EdgeFile::new(3);
        let edge = |n, variant| {
            let gue = format!("encap: {{ kind: gue, gue: {{ port: 6081, variant: {variant} }},");
            file.text(n).replace("encap: {", &gue)
        };
        // GUE alone: were anything else sent, nothing would arrive.
        let decap = files::decap_file(Mode::Native)
            .replace("  allow_sources", "  accept: gue\n  gue_port: 6081\n  allow_sources");
        let mut tier = Tier::start_with(&lab, &decap, |n| edge(n, 0))?;
        for variant in [0, 1] {
            if variant == 1 {
                tier.reload(|n| edge(n, 1))?;
            }
            for target in files::tcp() {
                let options = LoadOptions { requests: 300, rate: 2000.0, ..LoadOptions::default() };
                let report = Load::start(&lab.client(1).ns, &[target], options)?.finish(BOUND)?;
                ensure!(report.failures() == 0 && report.answers() == 300, "{variant} {target}: {report:?}");
                ensure!(report.answered.len() == 3, "{variant} {target}: {:?}", report.answered);
            }
            for target in files::udp() {
                let options = DatagramOptions { flows: 30, datagrams: 20, ..DatagramOptions::default() };
                let flows = Datagrams::start(&lab.client(1).ns, target, options)?.finish(BOUND)?;
                ensure!(flows.iter().all(|flow| flow.is_unharmed()), "{variant} {target}: {flows:?}");
            }
        }
    }
    drop(lab);
    before.check(id)
}
