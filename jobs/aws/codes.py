"""Error codes of AWS's services, by what they mean to a person. Data.

From "Common client errors" and "Server error codes" of the EC2 API reference, and "Common errors" of the others.
"""

from __future__ import annotations

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
SKEWED = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
REFUSED = frozenset(
    {"AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
     "MissingAuthenticationToken", "OptInRequired", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)  # fmt: skip
LIMITED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"})
NO_NETWORK = frozenset(
    {"ConnectTimeoutError", "ConnectionClosedError", "ConnectionError", "EndpointConnectionError", "HTTPClientError",
     "ProxyConnectionError", "ReadTimeoutError", "SSLError"}
)  # fmt: skip

NO_CAPACITY = frozenset({"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity"})
NOT_IN_ZONE = frozenset({"Unsupported", "UnsupportedOperation"})
"""The type is not offered in that zone; another may have it."""
NO_QUOTA = frozenset({"VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"})
NO_SUCH_INSTANCE = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
