//! The error of a unary call: a gRPC status that carries an [`Error`] in its details, in the form
//! that every gRPC library can take apart (`google.rpc.Status`).

use prost::Message as _;
use tonic::{Code, Status};

use crate::v1::{Error, ErrorCode};

/// `google.rpc.Status`, of which the details of a gRPC status are an encoding.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

const ERROR_TYPE_URL: &str = "type.googleapis.com/coordd.v1.Error";

/// The gRPC code that stands for an error code, as documented at `ErrorCode` in the .proto file.
pub fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::NoNode | ErrorCode::NoSession | ErrorCode::NoWatcher => Code::NotFound,
        ErrorCode::NodeExists => Code::AlreadyExists,
        ErrorCode::BadVersion
        | ErrorCode::NotEmpty
        | ErrorCode::NoChildrenForEphemerals
        | ErrorCode::SessionExpired
        | ErrorCode::OtherLineage
        | ErrorCode::GuardFailed
        | ErrorCode::BadEpoch
        | ErrorCode::CountMismatch => Code::FailedPrecondition,
        ErrorCode::NoAuth => Code::PermissionDenied,
        ErrorCode::InvalidAcl | ErrorCode::BadArguments | ErrorCode::Protocol => Code::InvalidArgument,
        ErrorCode::QuotaExceeded
        | ErrorCode::TooManyUnacknowledged
        | ErrorCode::Throttled
        | ErrorCode::NoSpace
        | ErrorCode::LimitExceeded => Code::ResourceExhausted,
        ErrorCode::SequenceGap | ErrorCode::SessionMoved => Code::Aborted,
        ErrorCode::AuthFailed => Code::Unauthenticated,
        ErrorCode::NotServing => Code::Unavailable,
        ErrorCode::OutcomeUnknown | ErrorCode::Unspecified => Code::Unknown,
    }
}

/// What a status says, and of which path: both go into headers, the message twice, and clients refuse headers of more than
/// 8 KiB. Each byte may take three there.
const TEXT_BYTES_MAX: usize = 512;

/// The text, cut to so many bytes if it is longer; it ends in "..." then.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    const END: &str = "...";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(END.len())));
        text.push_str(END);
    }
    text
}

/// The status that carries `error`. Its message and its path are cut to 512 bytes.
pub fn into_status(mut error: Error) -> Status {
    error.message = cut(error.message, TEXT_BYTES_MAX);
    error.path = cut(error.path, TEXT_BYTES_MAX);
    let code = grpc_code(error.code());
    let message = error.message.clone();
    let any = Any { type_url: ERROR_TYPE_URL.into(), value: error.encode_to_vec() };
    let details = RpcStatus { code: code as i32, message: message.clone(), details: vec![any] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// The error that a status carries, if it came from coordd.
pub fn from_status(status: &Status) -> Option<Error> {
    let details = RpcStatus::decode(status.details()).ok()?;
    let any = details.details.iter().find(|any| any.type_url == ERROR_TYPE_URL)?;
    Error::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_a_status() {
        let error = Error {
            code: ErrorCode::BadVersion as i32,
            message: "expected 3, is 4".into(),
            path: "/a".into(),
            op_index: Some(2),
            retry_after_ms: 0,
        };
        let status = into_status(error.clone());
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "expected 3, is 4");
        assert_eq!(from_status(&status), Some(error));
    }

    /// Whatever a client sends and is told about, the trailers of a reply stay far below the 8 KiB that clients take.
    #[test]
    fn trailers_stay_small() {
        for text in ["\u{301}".repeat(4096), "\"".repeat(4 << 20), "\u{1F980}".repeat(1024)] {
            let error = Error {
                code: ErrorCode::NoNode as i32,
                message: format!("no znode {text:?}"),
                path: text,
                ..Error::default()
            };
            let status = into_status(error);
            let response = status.clone().into_http::<()>();
            let headers = response.headers();
            let bytes: usize =
                headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes <= 4096, "{bytes} bytes");
            let told = from_status(&status).expect("an error of ours");
            assert!(told.message.ends_with("...") && told.path.ends_with("..."));
            assert_eq!(told.message, status.message());
        }
    }

    #[test]
    fn a_status_of_somebody_else_carries_no_error() {
        assert_eq!(from_status(&Status::unavailable("connection refused")), None);
    }
}
