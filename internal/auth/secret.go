package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"strings"

	"signalbox"
)

// SecretKind says how a device's secret is kept. The numbers are written to disk: never
// renumber.
type SecretKind = uint8

// The two ways to keep a device's secret.
const (
	// SecretGenerated is the SHA-256 of a secret made by NewSecret.
	SecretGenerated SecretKind = 1
	// SecretChosen is the HMAC-SHA-256 under the key file of a secret that somebody chose
	// or imported, however long it is.
	SecretChosen SecretKind = 2
)

// secretLen is the length of a generated device secret: 26 characters of 5 bits.
const secretLen = 26

// alphabet has 32 characters that survive being read aloud, typed, and put between the
// quotes of a sketch: no capitals, no 0 and o, no 1 and l.
const alphabet = "abcdefghijkmnpqrstuvwxyz23456789"

// NewSecret makes a device secret: 26 characters out of a to z and 2 to 9, at least 130
// random bits. Keep it by HashGenerated.
func NewSecret() string { return random(secretLen) }

// LooksGenerated reports whether b may be a secret made by NewSecret. It is for what is not to be
// written into a log.
func LooksGenerated(b []byte) bool {
	if len(b) != secretLen {
		return false
	}
	for _, c := range b {
		if strings.IndexByte(alphabet, c) < 0 {
			return false
		}
	}
	return true
}

// random gives n random characters of the alphabet, 5 bits each.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process rather than be predictable
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b)
}

// HashGenerated gives what to keep, as SecretGenerated, of a secret made by NewSecret.
// It must not be used for any other: a short secret can be found from its SHA-256.
func HashGenerated(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }

// HashChosen gives what to keep, as SecretChosen, of a secret that somebody chose. It
// refuses with KindInvalid what CheckChosen refuses.
func (k *Keys) HashChosen(secret string) ([32]byte, error) {
	if err := CheckChosen(secret); err != nil {
		return [32]byte{}, err
	}
	return k.mac([]byte(secret)), nil
}

// CheckChosen tells whether a device may have this secret: 1 to
// signalbox.MaxDeviceSecretLen bytes of any kind.
func CheckChosen(secret string) error {
	if secret == "" {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_secret", "the device secret is empty; it needs 1 to %d bytes", signalbox.MaxDeviceSecretLen)
	}
	if len(secret) > signalbox.MaxDeviceSecretLen {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_secret", "the device secret has %d bytes; at most %d are allowed", len(secret), signalbox.MaxDeviceSecretLen)
	}
	return nil
}

// Verify reports whether secret is the one kept as kind and sum. Its time depends on the
// length of secret alone: not on kind, not on how much of it is right. It allocates
// nothing and takes well under a microsecond.
func (k *Keys) Verify(kind SecretKind, sum *[32]byte, secret []byte) bool {
	fits := len(secret) <= signalbox.MaxDeviceSecretLen
	if !fits {
		secret = secret[:signalbox.MaxDeviceSecretLen]
	}
	// Both are always computed, so that time does not tell which kind a device has.
	generated := sha256.Sum256(secret)
	chosen := k.mac(secret)
	isGenerated := subtle.ConstantTimeCompare(sum[:], generated[:]) & subtle.ConstantTimeByteEq(kind, SecretGenerated)
	isChosen := subtle.ConstantTimeCompare(sum[:], chosen[:]) & subtle.ConstantTimeByteEq(kind, SecretChosen)
	return isGenerated|isChosen == 1 && fits
}

// VerifyNothing does the work of Verify for a device that does not exist and reports
// false, so that time does not tell which names exist.
func (k *Keys) VerifyNothing(secret []byte) bool {
	var nothing [32]byte
	return k.Verify(0, &nothing, secret)
}

const (
	blockLen = sha256.BlockSize
	macRoom  = blockLen + signalbox.MaxDeviceSecretLen
)

// mac is HMAC-SHA-256 (RFC 2104) of at most MaxDeviceSecretLen bytes, on the stack.
func (k *Keys) mac(message []byte) [32]byte {
	var inner [macRoom]byte
	copy(inner[:], k.inner[:])
	n := blockLen + copy(inner[blockLen:], message)
	digest := sha256.Sum256(inner[:n])

	var outer [blockLen + sha256.Size]byte
	copy(outer[:], k.outer[:])
	copy(outer[blockLen:], digest[:])
	return sha256.Sum256(outer[:])
}
