package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// TokenPrefix begins every program's token, so that scanners for leaked secrets and
// people know one when they see it.
const TokenPrefix = "sbx_"

const (
	tokenLen = 32 // characters of 5 bits after the prefix
	// maxPresented is the longest token or cookie worth hashing, in bytes.
	maxPresented = 128
)

// NewToken makes a program's token, «sbx_» and 32 characters with 160 random bits, and
// what to keep of it. The secret is shown once and never kept.
func NewToken() (secret string, hash [32]byte) {
	secret = TokenPrefix + random(tokenLen)
	return secret, HashToken(secret)
}

// NewCookie makes the secret of a browser login, 256 random bits in 43 characters that a
// cookie may hold, and what to keep of it.
func NewCookie() (secret string, hash [32]byte) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process rather than be predictable
	secret = base64.RawURLEncoding.EncodeToString(b[:])
	return secret, HashToken(secret)
}

// HashToken gives what is kept of a token or a cookie's secret: its SHA-256. Secrets of
// more than 128 bytes, which are never made, all give zeroes. It does not allocate.
func HashToken(secret string) (hash [32]byte) {
	if len(secret) > maxPresented {
		return hash
	}
	var b [maxPresented]byte
	return sha256.Sum256(b[:copy(b[:], secret)])
}
