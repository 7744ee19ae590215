package auth

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"signalbox"
)

const (
	// keyLen is the length of the key file, in bytes.
	keyLen = 32
	// innerMask and outerMask are those of HMAC (RFC 2104, section 2).
	innerMask, outerMask = 0x36, 0x5c
)

// Keys is the key under which chosen device secrets are hashed, and others sealed.
type Keys struct {
	inner, outer [blockLen]byte // the key padded and masked as RFC 2104 says
}

// OpenKeys reads the key file at path, 32 random bytes that only their owner may read,
// and makes it when it is missing. A file that others may read, or of another length, is
// refused with KindUnavailable.
//
// Who loses the file loses the chosen secrets of all devices, and what was sealed: compare
// Keys.ID with the one seen before.
func OpenKeys(path string) (*Keys, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKeys(path)
	}
	if err != nil {
		return nil, keyFault(err, "the key file %s cannot be read", path)
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, keyFault(err, "the key file %s cannot be read", path)
	}
	if !info.Mode().IsRegular() {
		return nil, keyFault(nil, "%s is no ordinary file; the key file has to be one", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, keyFault(nil, "the key file %s has mode %04o, so others may use it; only its owner may (chmod 600 %s)", path, mode, path)
	}
	key, err := io.ReadAll(io.LimitReader(f, keyLen+1))
	if err != nil {
		return nil, keyFault(err, "the key file %s cannot be read", path)
	}
	if len(key) != keyLen || info.Size() != keyLen {
		return nil, keyFault(nil, "the key file %s has %d bytes; it needs exactly %d: put back its copy (without it, chosen device secrets cannot be checked), or remove it if no device has a chosen secret yet",
			path, info.Size(), keyLen)
	}
	return newKeys(key), nil
}

// createKeys makes the key file; it is on disk when this returns.
func createKeys(path string) (*Keys, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, keyFault(err, "the key file %s cannot be made", path)
	}
	key := make([]byte, keyLen)
	_, _ = rand.Read(key) // never fails: it ends the process rather than be predictable
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(keyFault(err, "the key file %s cannot be written", path), os.Remove(path))
	}
	return newKeys(key), nil
}

// syncDir makes the name of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func keyFault(cause error, format string, args ...any) error {
	return signalbox.Wrap(signalbox.KindUnavailable, "key_file", cause, format, args...)
}

func newKeys(key []byte) *Keys {
	k := &Keys{}
	copy(k.inner[:], key)
	copy(k.outer[:], key)
	for i := range blockLen {
		k.inner[i] ^= innerMask
		k.outer[i] ^= outerMask
	}
	return k
}

// ID names the key without giving it away, 16 hexadecimal digits: a data directory that
// was used with another key can be told by it.
func (k *Keys) ID() string {
	sum := k.mac([]byte("signalbox key id"))
	return hex.EncodeToString(sum[:8])
}
