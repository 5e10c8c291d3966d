//! Every node and every tensor of a model, wherever it is nested: in the graph, in graphs that are attributes (`If`, `Loop`,
//! `Scan`), in functions.

use super::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use crate::error::Result;

/// The graphs that `node` has as attributes.
pub(super) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    let of = |attribute| {
        let attribute: &AttributeProto = attribute;
        attribute.g.as_option().into_iter().chain(&attribute.graphs)
    };
    node.attribute.iter().flat_map(of)
}

/// Every node of the model's graph and functions, outer ones before those inside them.
pub(super) fn nodes(model: &ModelProto) -> Vec<&NodeProto> {
    let mut found = Vec::new();
    add_nodes(&model.graph.node, &mut found);
    for function in &model.functions {
        add_nodes(&function.node, &mut found);
    }
    found
}

fn add_nodes<'a>(nodes: &'a [NodeProto], found: &mut Vec<&'a NodeProto>) {
    for node in nodes {
        found.push(node);
        for graph in subgraphs(node) {
            add_nodes(&graph.node, found);
        }
    }
}

/// Every tensor, the initializers of a graph after those of its nodes.
pub(super) fn tensors(model: &ModelProto) -> Vec<&TensorProto> {
    let mut found = Vec::new();
    let graphs = [&model.graph].into_iter().map(|graph| &**graph);
    let training = model.training_info.iter();
    let training = training.flat_map(|info| [&*info.initialization, &*info.algorithm]);
    for graph in graphs.chain(training) {
        add_tensors(graph, &mut found);
    }
    for function in &model.functions {
        let defaults = function.attribute_proto.iter();
        defaults.for_each(|attribute| add_of_attribute(attribute, &mut found));
        add_of_nodes(&function.node, &mut found);
    }
    found
}

fn add_tensors<'a>(graph: &'a GraphProto, found: &mut Vec<&'a TensorProto>) {
    add_of_nodes(&graph.node, found);
    found.extend(&graph.initializer);
    found.extend(graph.sparse_initializer.iter().flat_map(both));
}

fn add_of_nodes<'a>(nodes: &'a [NodeProto], found: &mut Vec<&'a TensorProto>) {
    for attribute in nodes.iter().flat_map(|node| &node.attribute) {
        add_of_attribute(attribute, found);
    }
}

fn add_of_attribute<'a>(attribute: &'a AttributeProto, found: &mut Vec<&'a TensorProto>) {
    found.extend(attribute.t.as_option());
    found.extend(&attribute.tensors);
    let sparse = attribute.sparse_tensor.as_option().into_iter();
    found.extend(sparse.chain(&attribute.sparse_tensors).flat_map(both));
    for graph in attribute.g.as_option().into_iter().chain(&attribute.graphs) {
        add_tensors(graph, found);
    }
}

fn both(sparse: &SparseTensorProto) -> impl Iterator<Item = &TensorProto> {
    let values = sparse.values.as_option().into_iter();
    values.chain(sparse.indices.as_option())
}

/// What changes a tensor.
type Edit<'e> = dyn FnMut(&mut TensorProto) -> Result<()> + 'e;

/// Calls `edit` on every tensor, in the order of [`tensors`].
pub(super) fn edit_tensors(model: &mut ModelProto, edit: &mut Edit<'_>) -> Result<()> {
    if let Some(graph) = model.graph.as_option_mut() {
        edit_graph(graph, edit)?;
    }
    for info in &mut model.training_info {
        let graphs = [&mut info.initialization, &mut info.algorithm];
        for graph in graphs.into_iter().filter_map(|graph| graph.as_option_mut()) {
            edit_graph(graph, edit)?;
        }
    }
    for function in &mut model.functions {
        for attribute in &mut function.attribute_proto {
            edit_attribute(attribute, edit)?;
        }
        edit_nodes(&mut function.node, edit)?;
    }
    Ok(())
}

fn edit_graph(graph: &mut GraphProto, edit: &mut Edit<'_>) -> Result<()> {
    edit_nodes(&mut graph.node, edit)?;
    for tensor in &mut graph.initializer {
        edit(tensor)?;
    }
    for sparse in &mut graph.sparse_initializer {
        edit_sparse(sparse, edit)?;
    }
    Ok(())
}

fn edit_nodes(nodes: &mut [NodeProto], edit: &mut Edit<'_>) -> Result<()> {
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        edit_attribute(attribute, edit)?;
    }
    Ok(())
}

fn edit_attribute(attribute: &mut AttributeProto, edit: &mut Edit<'_>) -> Result<()> {
    let tensor = attribute.t.as_option_mut().into_iter();
    for tensor in tensor.chain(&mut attribute.tensors) {
        edit(tensor)?;
    }
    let sparse = attribute.sparse_tensor.as_option_mut().into_iter();
    for sparse in sparse.chain(&mut attribute.sparse_tensors) {
        edit_sparse(sparse, edit)?;
    }
    let graph = attribute.g.as_option_mut().into_iter();
    for graph in graph.chain(&mut attribute.graphs) {
        edit_graph(graph, edit)?;
    }
    Ok(())
}

fn edit_sparse(sparse: &mut SparseTensorProto, edit: &mut Edit<'_>) -> Result<()> {
    let values = sparse.values.as_option_mut().into_iter();
    for tensor in values.chain(sparse.indices.as_option_mut()) {
        edit(tensor)?;
    }
    Ok(())
}
