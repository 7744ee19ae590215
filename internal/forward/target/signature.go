package target

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// The headers of Standard Webhooks 1.0.0. The identifier and the time are there without a secret
// too: the identifier tells duplicates.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// secretPrefix begins a secret that is written in base64.
const secretPrefix = "whsec_"

// signer signs requests as Standard Webhooks 1.0.0 has it: the signature is v1, a comma, and the
// base64 of HMAC-SHA-256 over identifier, time in Unix seconds and body, with points between. The
// zero value signs nothing.
type signer struct{ key []byte }

// newSigner takes a secret as it is given, or in the form whsec_<base64>, whose bytes are the key.
func newSigner(secret string) (signer, error) {
	text, coded := strings.CutPrefix(secret, secretPrefix)
	if !coded {
		return signer{key: []byte(secret)}, nil
	}
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(key) == 0 {
		// The decoder's error would show a part of the secret.
		return signer{}, signalbox.Wrap(signalbox.KindInvalid, "invalid_secret", forward.ErrTarget,
			"the secret begins with %s, so base64 must follow, and it does not", secretPrefix)
	}
	return signer{key: key}, nil
}

// sign gives the value of webhook-signature; empty without a key.
func (s signer) sign(id string, seconds int64, body []byte) string {
	if len(s.key) == 0 {
		return ""
	}
	sum := hmac.New(sha256.New, s.key)
	head := make([]byte, 0, 96)
	head = append(append(head, id...), '.')
	head = append(strconv.AppendInt(head, seconds, 10), '.')
	_, _ = sum.Write(head) // a hash never fails
	_, _ = sum.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// headers gives the three headers of a request that is sent at a time.
func (s signer) headers(set func(name, value string), id string, at time.Time, body []byte) {
	set(headerID, id)
	set(headerTimestamp, strconv.FormatInt(at.Unix(), 10))
	if signature := s.sign(id, at.Unix(), body); signature != "" {
		set(headerSignature, signature)
	}
}
