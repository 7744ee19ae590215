package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"signalbox"
)

const (
	// sealVersion is the first byte of what Seal gives; a nonce of nonceLen bytes and the
	// ciphertext with its tag follow.
	sealVersion = 1
	nonceLen    = 12
	sealHead    = 1 + nonceLen
	tagLen      = 16
)

// Seal encrypts and authenticates a secret that the hub itself must be able to read again, so
// that a leaked database or backup alone does not give it away: AES-256-GCM (NIST SP 800-38D)
// with a random nonce, under a key derived by HKDF-SHA-256 (RFC 5869) from the key file and
// purpose. The result is 29 bytes longer than plain. For one purpose no more than 2^32 secrets
// should be sealed.
func (k *Keys) Seal(purpose string, plain []byte) ([]byte, error) {
	aead, err := k.aead(purpose)
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, sealHead, sealHead+len(plain)+tagLen)
	sealed[0] = sealVersion
	_, _ = rand.Read(sealed[1:]) // never fails: it ends the process rather than be predictable
	return aead.Seal(sealed, sealed[1:sealHead], plain, sealed[:1]), nil
}

// Unseal gives back what was sealed for the same purpose. What was changed, or sealed under
// another key file or for another purpose, gives KindUnavailable, code key_file.
func (k *Keys) Unseal(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < sealHead+tagLen {
		return nil, keyFault(nil, "a sealed secret (%s) has %d bytes; there are at least %d: it is damaged, so set the secret again", purpose, len(sealed), sealHead+tagLen)
	}
	if sealed[0] != sealVersion {
		return nil, keyFault(nil, "a sealed secret (%s) is in form %d; this version knows form %d: a newer Signalbox made it, or it is damaged", purpose, sealed[0], sealVersion)
	}
	aead, err := k.aead(purpose)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, sealed[1:sealHead], sealed[sealHead:], sealed[:1])
	if err != nil {
		return nil, signalbox.Wrap(signalbox.KindUnavailable, "key_file", err,
			"a sealed secret (%s) cannot be opened with this key file (%s): put back the copy of the key file under which it was sealed, or set the secret again", purpose, k.ID())
	}
	return plain, nil
}

// aead is the cipher for one purpose.
func (k *Keys) aead(purpose string) (cipher.AEAD, error) {
	var key [keyLen]byte // as the file has it
	for i := range key {
		key[i] = k.inner[i] ^ innerMask
	}
	derived, err := hkdf.Key(sha256.New, key[:], nil, "signalbox seal: "+purpose, 32)
	clear(key[:])
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("AES: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("AES-GCM: %w", err)
	}
	return aead, nil
}
