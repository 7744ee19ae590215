package auth

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signalbox"
)

func TestSeal(t *testing.T) {
	keys, path := openKeys(t)
	again, err := OpenKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, tc := range []struct {
		name  string
		plain []byte
	}{
		{"nothing", nil},
		{"a password", []byte("geheim 密码")},
		{"all bytes", func() []byte {
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			return all
		}()},
		{"a mebibyte", bytes.Repeat([]byte("x"), 1<<20)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sealed, err := keys.Seal("forwarder secrets", tc.plain)
			if err != nil {
				t.Fatal(err)
			}
			if len(sealed) != len(tc.plain)+29 || len(tc.plain) > 4 && bytes.Contains(sealed, tc.plain) || seen[string(sealed[1:13])] {
				t.Errorf("%d bytes are sealed as %d: %.40x", len(tc.plain), len(sealed), sealed)
			}
			seen[string(sealed[1:13])] = true
			for _, k := range []*Keys{keys, again} {
				if plain, err := k.Unseal("forwarder secrets", sealed); err != nil || !bytes.Equal(plain, tc.plain) {
					t.Errorf("%.20q came back, %v", plain, err)
				}
			}
		})
	}
}

// TestSealedForm holds the form on disk, by what RFC 5869 and NIST SP 800-38D say.
func TestSealedForm(t *testing.T) {
	key := make([]byte, keyLen)
	for i := range key {
		key[i] = byte(i)
	}
	mac := func(key []byte, parts ...[]byte) []byte {
		h := hmac.New(sha256.New, key)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	derived := mac(mac(make([]byte, sha256.Size), key), []byte("signalbox seal: test"), []byte{1})
	block, err := aes.NewCipher(derived)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte("twelve bytes")
	sealed := gcm.Seal(append([]byte{1}, nonce...), nonce, []byte("plain"), []byte{1})
	if want := "017477656c7665206279746573"; hex.EncodeToString(sealed[:13]) != want {
		t.Fatalf("begins with %x", sealed[:13])
	}
	path := filepath.Join(t.TempDir(), "secret.key")
	if err := os.WriteFile(path, key, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := OpenKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := keys.Unseal("test", sealed); err != nil || string(plain) != "plain" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestUnsealRefuses(t *testing.T) {
	keys, _ := openKeys(t)
	other, _ := openKeys(t)
	sealed, err := keys.Seal("one", []byte("a secret"))
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int) []byte {
		c := bytes.Clone(sealed)
		c[at] ^= 1
		return c
	}
	for _, tc := range []struct {
		name    string
		keys    *Keys
		purpose string
		sealed  []byte
		says    string
	}{
		{"another key file", other, "one", sealed, "key file"},
		{"another purpose", keys, "two", sealed, "cannot be opened"},
		{"another nonce", keys, "one", changed(3), "cannot be opened"},
		{"another text", keys, "one", changed(14), "cannot be opened"},
		{"another tag", keys, "one", changed(len(sealed) - 1), "cannot be opened"},
		{"another form", keys, "one", changed(0), "form 0"},
		{"cut off", keys, "one", sealed[:len(sealed)-1], "cannot be opened"},
		{"shorter than any", keys, "one", sealed[:28], "28 bytes"},
		{"nothing", keys, "one", nil, "0 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plain, err := tc.keys.Unseal(tc.purpose, tc.sealed)
			if signalbox.KindOf(err) != signalbox.KindUnavailable || signalbox.CodeOf(err) != "key_file" || plain != nil {
				t.Fatalf("%q, %v", plain, err)
			}
			if !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "secret \"") {
				t.Errorf("it says %q", err)
			}
		})
	}
}

func FuzzUnseal(f *testing.F) {
	keys, _ := openKeys(f)
	for _, plain := range []string{"", "x", "a longer secret"} {
		sealed, err := keys.Seal("fuzz", []byte(plain))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
	}
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := keys.Unseal("fuzz", sealed); err != nil && signalbox.CodeOf(err) != "key_file" {
			t.Error(err)
		}
	})
}
