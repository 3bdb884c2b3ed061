//! Reads `kubernetes`. Called by [`super::sections`].

use super::keys;
use super::leaf::{self, boolean};
use super::reader::{Item, Leaf, must_be};
use crate::model::{Delivery, Kubernetes};

const CLASS: &str = "xdp-lb.io/edge";
const EDGE_NODES: &str = "xdp-lb.io/edge=true";

/// Reads the section. `None`: it is off, or cannot be read.
pub(super) fn read(item: &Item<'_>) -> Option<Kubernetes> {
    let keys = item.mapping(&keys::KUBERNETES)?;
    let enabled = keys.leaf("enabled", true, boolean);
    let kubeconfig = keys.get("kubeconfig").and_then(|item| item.leaf(leaf::absolute_path));
    let class = keys.leaf("load_balancer_class", CLASS.to_owned(), class);
    let classless = keys.leaf("classless", false, boolean);
    let delivery = keys.leaf("delivery", Delivery::Node, delivery);
    let hints = keys.leaf("hints", false, boolean);
    let edge_nodes = keys.leaf("edge_nodes", EDGE_NODES.to_owned(), selector);
    let namespace = keys.get("namespace").map(|item| item.leaf(namespace));
    let read = Kubernetes {
        kubeconfig,
        class: class?,
        classless: classless?,
        delivery: delivery?,
        hints: hints?,
        edge_nodes: edge_nodes?,
        namespace: match namespace {
            Some(namespace) => Some(namespace?),
            None => None,
        },
    };
    enabled.unwrap_or(true).then_some(read)
}

/// A label in Kubernetes' sense, with a prefix: Kubernetes asks no more of it.
fn class(text: &str) -> Leaf<String> {
    let is_fine = |part: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(part.chars().next()) && ends(part.chars().next_back()) && part.chars().all(inner)
    };
    if text.len() <= 253 && text.split('/').count() <= 2 && text.split('/').all(is_fine) {
        Ok(text.to_owned())
    } else {
        must_be("a class, as in xdp-lb.io/edge", text)
    }
}

fn namespace(text: &str) -> Leaf<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fine = (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fine { Ok(text.to_owned()) } else { must_be("the name of a namespace, as in xdp-lb-system", text) }
}

/// A label selector. The API server judges it; this keeps out what is none at all.
fn selector(text: &str) -> Leaf<String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_./=!,() ".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '!') && text.chars().all(is_fine) {
        Ok(text.to_owned())
    } else {
        must_be("a label selector, as in xdp-lb.io/edge=true", text)
    }
}

fn delivery(text: &str) -> Leaf<Delivery> {
    leaf::choice(&[("node", Delivery::Node), ("pod", Delivery::Pod), ("host", Delivery::Host)], &[])(text)
}
