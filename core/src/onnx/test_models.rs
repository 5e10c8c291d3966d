//! Small models for tests.

use buffa::Message;

use super::Model;
use super::schema::attribute_proto::AttributeType;
use super::schema::tensor_shape_proto::{Dimension, dimension};
use super::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

pub(super) fn number(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..Default::default()
    }
}

pub(super) fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    let mut attribute = AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::GRAPH),
        ..Default::default()
    };
    *attribute.g.get_or_insert_default() = graph;
    attribute
}

pub(super) fn node(name: &str, op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        input: owned(inputs),
        output: owned(outputs),
        name: Some(name.to_owned()),
        op_type: Some(op.to_owned()),
        ..Default::default()
    }
}

/// A tensor with these entries about where it lies.
pub(super) fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entries = entries.iter().map(|(key, value)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
        ..Default::default()
    });
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        external_data: entries.collect(),
        ..Default::default()
    }
}

/// A size of 0 is one called `batch`.
pub(super) fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&dim: &i64| Dimension {
        value: Some(match dim {
            0 => dimension::Value::DimParam("batch".to_owned()),
            dim => dimension::Value::DimValue(dim),
        }),
        ..Default::default()
    };
    let mut tensor = type_proto::Tensor {
        elem_type: Some(1),
        ..Default::default()
    };
    *tensor.shape.get_or_insert_default() = TensorShapeProto {
        dim: dims.iter().map(dim).collect(),
        ..Default::default()
    };
    let mut value = ValueInfoProto {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    *value.r#type.get_or_insert_default() = TypeProto {
        value: Some(type_proto::Value::from(tensor)),
        ..Default::default()
    };
    value
}

pub(super) fn model(graph: GraphProto) -> Model {
    let mut proto = ModelProto {
        ir_version: Some(10),
        ..Default::default()
    };
    *proto.graph.get_or_insert_default() = graph;
    Model { proto }
}

/// The encoded form of a message.
pub(super) fn encoded(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}
