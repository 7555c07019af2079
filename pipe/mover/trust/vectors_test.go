package trust

// The token of the server's pin 00 01 … 1f and the seed 80 81 … 9f, and the pin of its key, computed apart from this
// package (HMAC and SHA-256 of Python, Ed25519 of OpenSSL).
const (
	vectorToken = "hikae-token-1-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypybamcqocilbuhrceyvc4mrwhi7eerskjzjfmws6mjtgu3tsoz5h5fyxzmu"
	vectorPin   = "sha256:3d8e681854a24677701e488a3aa9ac4da342a6463ff4d62ce38bc46436e77e51"
)
