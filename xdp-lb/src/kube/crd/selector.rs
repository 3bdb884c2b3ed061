//! Label selectors in our resources, as everywhere in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kube::ipam;

/// Selects objects by their labels: all of `matchLabels` and all of `matchExpressions` must hold. An empty selector
/// selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with the values that they must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Other requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelectorRequirement {
    /// The label.
    #[schemars(length(min = 1))]
    pub key: String,
    /// How it is compared.
    pub operator: SelectorOperator,
    /// With what; for In and NotIn alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    #[expect(
        missing_docs,
        reason = "Kubernetes' own words; a description of one would make the schema a choice of schemas"
    )]
    In,
    #[expect(missing_docs, reason = "as above")]
    NotIn,
    #[expect(missing_docs, reason = "as above")]
    Exists,
    #[expect(missing_docs, reason = "as above")]
    DoesNotExist,
}

impl From<&LabelSelector> for ipam::Selector {
    fn from(selector: &LabelSelector) -> Self {
        let label = |(key, value): (&String, &String)| ipam::Requirement {
            key: key.clone(),
            operator: ipam::Operator::In,
            values: BTreeSet::from([value.clone()]),
        };
        let expression = |requirement: &SelectorRequirement| ipam::Requirement {
            key: requirement.key.clone(),
            operator: match requirement.operator {
                SelectorOperator::In => ipam::Operator::In,
                SelectorOperator::NotIn => ipam::Operator::NotIn,
                SelectorOperator::Exists => ipam::Operator::Exists,
                SelectorOperator::DoesNotExist => ipam::Operator::DoesNotExist,
            },
            values: requirement.values.iter().cloned().collect(),
        };
        let labels = selector.match_labels.iter().map(label);
        Self(labels.chain(selector.match_expressions.iter().map(expression)).collect())
    }
}
