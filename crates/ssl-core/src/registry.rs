//! Methods that are chosen by name: where they come from, their hyperparameters, their recipes.
//!
//! Each modality has a list of [`Registered`] methods; what builds one depends on the modality.
use crate::{Error, Result};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::marker::PhantomData;

/// Where a method comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Info {
    /// As on the command line, and the name of its file and recipe.
    pub name: &'static str,
    /// In one line.
    pub summary: &'static str,
    /// The authors.
    pub paper: &'static str,
    /// The year of the paper.
    pub year: u16,
    /// Pretext, contrastive, distillation, masked, redundancy, clustering, generative.
    pub kind: &'static str,
    /// The paper.
    pub url: &'static str,
}

/// A method `M` that can be chosen by name; it is built from what the modality gives, `P`, and has recipes `R`.
pub struct Registered<M: ?Sized, P, R> {
    /// Where it comes from.
    pub info: Info,
    recipes: &'static str,
    defaults: fn(&str) -> Result<Value>,
    schema: fn() -> Schema,
    build: fn(&Value, &P) -> Result<Box<M>>,
    recipe: PhantomData<fn() -> R>,
}

impl<M: ?Sized, P, R> Debug for Registered<M, P, R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<M: ?Sized, P, R: DeserializeOwned> Registered<M, P, R> {
    /// An entry for a method whose hyperparameters are a `C`; `recipes` is the text of its recipe file.
    pub const fn new<C: Serialize + JsonSchema + Default>(
        info: Info,
        recipes: &'static str,
        build: fn(&Value, &P) -> Result<Box<M>>,
    ) -> Self {
        Registered { info, recipes, defaults: defaults::<C>, schema: schema::<C>, build, recipe: PhantomData }
    }

    /// The paper's hyperparameters.
    ///
    /// # Errors
    /// `Error::Config` when they cannot be written as JSON.
    pub fn defaults(&self) -> Result<Value> {
        (self.defaults)(self.info.name)
    }

    /// Names, types and descriptions of the hyperparameters.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }

    /// The method with the given hyperparameters; those not given are the paper's, at every depth: a structure of
    /// which one field alone is given is otherwise the paper's.
    ///
    /// # Errors
    /// `Error::Config` when a name is unknown or a number is out of range.
    pub fn build(&self, config: &Value, parts: &P) -> Result<Box<M>> {
        (self.build)(config, parts)
    }

    /// The recipes by data set; `default` serves every other one.
    ///
    /// # Errors
    /// `Error::Config` when the recipe file is faulty.
    pub fn recipes(&self) -> Result<BTreeMap<String, R>> {
        serde_json::from_str(self.recipes)
            .map_err(|e| Error::config(format!("recipe {}.json", self.info.name), e.to_string()))
    }

    /// The recipe for a data set, or for its family, as `asterisk` is for `asterisk-en`.
    ///
    /// # Errors
    /// `Error::Config` when the recipe file is faulty or has no `default`.
    pub fn recipe(&self, data: &str) -> Result<R> {
        let mut all = self.recipes()?;
        let family =
            |name: &&String| data.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'));
        let family = all.keys().find(family).cloned().unwrap_or_default();
        all.remove(data).or_else(|| all.remove(&family)).or_else(|| all.remove("default")).ok_or_else(|| {
            let known: Vec<_> = all.into_keys().collect();
            Error::config(
                format!("recipe {}.json", self.info.name),
                format!("expected `{data}` or `default`, found {}", known.join(", ")),
            )
        })
    }
}

fn defaults<C: Serialize + Default>(name: &str) -> Result<Value> {
    serde_json::to_value(C::default()).map_err(|e| Error::config(name, e.to_string()))
}

fn schema<C: JsonSchema>() -> Schema {
    schema_for!(C)
}

/// The hyperparameters of the method `name`: the given ones laid over the paper's.
///
/// # Errors
/// `Error::Config` when a name is unknown or a value is of another type.
pub fn configured<C: Serialize + DeserializeOwned + Default>(name: &str, given: &Value) -> Result<C> {
    let mut whole = defaults::<C>(name)?;
    // A recipe without hyperparameters has null for them.
    if !given.is_null() {
        lay_over(&mut whole, given);
    }
    serde_json::from_value(whole).map_err(|e| Error::config(name, e.to_string()))
}

/// Objects are joined name by name; anything else replaces what was there.
fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(base.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// The method of that name.
///
/// # Errors
/// `Error::Config` that lists the names.
pub fn find_in<'a, M: ?Sized, P, R: DeserializeOwned>(
    all: &'a [Registered<M, P, R>],
    name: &str,
) -> Result<&'a Registered<M, P, R>> {
    all.iter().find(|entry| entry.info.name == name).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|entry| entry.info.name).collect();
        Error::config("method", format!("expected one of {}, got {name}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        depth: u8,
        inner: Inner,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        a: u8,
        b: u8,
    }

    impl Default for Config {
        fn default() -> Self {
            Config { depth: 3, inner: Inner { a: 1, b: 2 } }
        }
    }

    const INFO: Info = Info { name: "m", summary: "", paper: "", year: 2000, kind: "", url: "" };

    fn build(config: &Value, extra: &u8) -> Result<Box<u8>> {
        Ok(Box::new(configured::<Config>("m", config)?.inner.b + extra))
    }

    const ALL: &[Registered<u8, u8, u8>] =
        &[Registered::new::<Config>(INFO, r#"{"default": 1, "x": 2}"#, build)];

    #[test]
    fn what_is_not_given_is_the_default_at_every_depth() {
        let config = configured::<Config>("m", &json!({"inner": {"a": 7}})).unwrap();
        assert_eq!(config, Config { depth: 3, inner: Inner { a: 7, b: 2 } });
        assert_eq!(configured::<Config>("m", &Value::Null).unwrap(), Config::default());
        let message = configured::<Config>("m", &json!({"inner": {"c": 7}})).unwrap_err().to_string();
        assert!(message.starts_with("m: unknown field `c`"), "{message}");
    }

    #[test]
    fn an_entry_builds_and_has_a_recipe_for_every_data_set() {
        let entry = find_in(ALL, "m").unwrap();
        assert_eq!(*entry.build(&json!({"inner": {"b": 5}}), &10).unwrap(), 15);
        assert_eq!((entry.recipe("x").unwrap(), entry.recipe("y").unwrap()), (2, 1));
        assert_eq!((entry.recipe("x-en").unwrap(), entry.recipe("xen").unwrap()), (2, 1), "a family");
        assert_eq!(entry.defaults().unwrap()["depth"], 3);
        let message = find_in(ALL, "n").unwrap_err().to_string();
        assert_eq!(message, "method: expected one of m, got n");
    }
}
