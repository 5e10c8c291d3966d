//! ONNX files without their weights, which are most of a file and tell a fuzzer nothing.

/// The file of a model whose weights above `least` bytes are said to lie in another file.
///
/// # Panics
/// For bytes that are no ONNX file.
pub fn without_weights(model: &[u8], least: usize) -> Vec<u8> {
    // ModelProto.graph, GraphProto.initializer.
    rewritten(model, 7, &|graph| {
        rewritten(graph, 5, &|tensor| external(tensor, least))
    })
}

/// A message with each of its fields `number` rewritten.
fn rewritten(message: &[u8], number: u64, rewrite: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (own, whole, content) in fields(message) {
        match content {
            Some(content) if own == number => put(&mut out, number, &rewrite(content)),
            _ => out.extend_from_slice(whole),
        }
    }
    out
}

fn external(tensor: &[u8], least: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = 0;
    for (number, whole, content) in fields(tensor) {
        match content {
            // TensorProto.raw_data.
            Some(content) if number == 9 && content.len() > least => bytes = content.len(),
            _ => out.extend_from_slice(whole),
        }
    }
    if bytes > 0 {
        // TensorProto.external_data: a key and a value each; data_location: external.
        for (key, value) in [("location", "weights"), ("length", &bytes.to_string())] {
            let mut entry = Vec::new();
            put(&mut entry, 1, key.as_bytes());
            put(&mut entry, 2, value.as_bytes());
            put(&mut out, 13, &entry);
        }
        out.extend([14 << 3, 1]);
    }
    out
}

fn put(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fields of a message: number, all bytes, and the content if it has a length.
fn fields(message: &[u8]) -> Vec<(u64, &[u8], Option<&[u8]>)> {
    let mut found = Vec::new();
    let mut at = 0;
    let number = |at: &mut usize| {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = message[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    while at < message.len() {
        let begin = at;
        let tag = number(&mut at);
        let content = match tag & 7 {
            0 => {
                number(&mut at);
                None
            }
            1 => {
                at += 8;
                None
            }
            2 => {
                let length = number(&mut at) as usize;
                at += length;
                Some(&message[at - length..at])
            }
            5 => {
                at += 4;
                None
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, &message[begin..at], content));
    }
    found
}
