//! As much of Go's templates as our chart uses: values, `if`, `default`, `quote`, `toYaml`, `nindent`, `.Files.Get` and
//! trimming. What it does not know is an error, so that the chart stays as simple as that.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// What a template may ask for.
#[derive(Debug)]
pub struct Context {
    /// `.Values`, `.Release`, `.Chart`.
    pub root: Value,
    /// `.Files`.
    pub files: fn(&str) -> String,
}

/// Renders a template.
pub fn render(template: &str, context: &Context) -> Result<String> {
    let mut out = String::new();
    // Whether each `if` around us is true.
    let mut inside: Vec<bool> = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").context("an action without end")?;
        let (trim_left, action) = action.strip_prefix('-').map_or((false, action), |action| (true, action));
        let (trim_right, action) = action.strip_suffix('-').map_or((false, action), |action| (true, action));
        if inside.iter().all(|is| *is) {
            out.push_str(if trim_left { text.trim_end() } else { text });
        }
        rest = if trim_right { after.trim_start() } else { after };
        match action.trim().split_once(' ') {
            Some(("if", what)) => inside.push(truth(&value(what, context)?)),
            None if action.trim() == "end" => _ = inside.pop().context("an end too many")?,
            _ if inside.iter().all(|is| *is) => out.push_str(&shown(&pipeline(action, context)?)),
            _ => {}
        }
    }
    if !inside.is_empty() {
        bail!("an if without end");
    }
    out.push_str(rest);
    Ok(out)
}

fn pipeline(action: &str, context: &Context) -> Result<Value> {
    let mut steps = action.split('|').map(str::trim);
    let first = steps.next().unwrap_or_default();
    let mut value = match first.split_once(' ') {
        Some(("toYaml", what)) => yaml(&value(what, context)?)?,
        Some((".Files.Get", name)) => (context.files)(name.trim_matches('"')).into(),
        _ => value(first, context)?,
    };
    for step in steps {
        value = match step.split_once(' ') {
            Some(("nindent", columns)) => {
                let indent = format!("\n{}", " ".repeat(columns.parse()?));
                format!("{indent}{}", shown(&value).replace('\n', &indent)).into()
            }
            Some(("default", other)) if !truth(&value) => self::value(other, context)?,
            Some(("default", _)) => value,
            None if step == "quote" => format!("{:?}", shown(&value)).into(),
            _ => bail!("{step}: not known here"),
        };
    }
    Ok(value)
}

/// `.Values.edge.config`; what is not there is an error.
fn value(path: &str, context: &Context) -> Result<Value> {
    let keys = path.trim().strip_prefix('.').with_context(|| format!("{path}: not known here"))?;
    let found = keys.split('.').try_fold(&context.root, |value, key| value.get(key));
    found.cloned().with_context(|| format!("{path} is not there"))
}

fn truth(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("")
}

fn yaml(value: &Value) -> Result<Value> {
    Ok(serde_yaml::to_string(value)?.trim_end().into())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn templates_are_rendered() {
    let root =
        serde_json::json!({ "Values": { "a": "x\ny\n", "b": true, "c": false, "d": "", "e": { "f": [1] } } });
    let context = Context { root, files: |name| format!("<{name}>") };
    let render = |text: &str| render(text, &context).map_err(|e| format!("{e:#}"));
    assert_eq!(render("k: |\n  {{- .Values.a | nindent 2 }}").as_deref(), Ok("k: |\n  x\n  y\n  "));
    assert_eq!(
        render("{{- if .Values.b }}\nyes\n{{- end }}\n{{ if .Values.c }}{{ nonsense }}{{ end }}").as_deref(),
        Ok("\nyes\n")
    );
    assert_eq!(render("{{ .Values.d | default .Values.b }}").as_deref(), Ok("true"));
    assert_eq!(render("e:\n  {{- toYaml .Values.e | nindent 2 }}").as_deref(), Ok("e:\n  f:\n  - 1"));
    assert_eq!(render("{{ .Files.Get \"n\" }}").as_deref(), Ok("<n>"));
    assert!(render("{{ .Values.none }}").is_err() && render("{{ range .Values.e }}{{ end }}").is_err());
    assert!(render("{{ if .Values.b }}").is_err() && render("{{ .Values.a | b64enc }}").is_err());
}
