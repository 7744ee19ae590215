package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"signalbox"
)

func openKeys(tb testing.TB) (keys *Keys, path string) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), "secret.key")
	keys, err := OpenKeys(path)
	if err != nil {
		tb.Fatal(err)
	}
	return keys, path
}

func TestNewSecret(t *testing.T) {
	form := regexp.MustCompile(`^[a-km-np-z2-9]{26}$`)
	seen := map[string]bool{}
	used := map[rune]bool{}
	for range 1000 {
		s := NewSecret()
		if !form.MatchString(s) {
			t.Fatalf("secret %q has another form", s)
		}
		if seen[s] {
			t.Fatalf("secret %q came twice", s)
		}
		seen[s] = true
		for _, r := range s {
			used[r] = true
		}
	}
	if len(used) != 32 {
		t.Errorf("%d characters are used, want 32", len(used))
	}
}

func TestVerify(t *testing.T) {
	keys, _ := openKeys(t)
	chosen := func(secret string) [32]byte {
		sum, err := keys.HashChosen(secret)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	secret := NewSecret()
	longest := strings.Repeat("x", signalbox.MaxDeviceSecretLen)
	tests := []struct {
		name   string
		kind   SecretKind
		sum    [32]byte
		secret string
		want   bool
	}{
		{"generated", SecretGenerated, HashGenerated(secret), secret, true},
		{"generated, wrong", SecretGenerated, HashGenerated(secret), NewSecret(), false},
		{"generated, a capital", SecretGenerated, HashGenerated("a" + secret), "A" + secret, false},
		{"chosen", SecretChosen, chosen("1234"), "1234", true},
		{"chosen, wrong", SecretChosen, chosen("1234"), "1235", false},
		{"chosen, empty", SecretChosen, chosen("1234"), "", false},
		{"chosen, longer", SecretChosen, chosen("1234"), "1234\x00", false},
		{"chosen, not English", SecretChosen, chosen("пароль"), "пароль", true},
		{"chosen, longest", SecretChosen, chosen(longest), longest, true},
		{"chosen, too long", SecretChosen, chosen(longest), longest + "x", false},
		{"generated, too long", SecretGenerated, HashGenerated(longest), longest + "x", false},
		{"generated taken for chosen", SecretChosen, HashGenerated(secret), secret, false},
		{"chosen taken for generated", SecretGenerated, chosen("1234"), "1234", false},
		{"no kind", 0, HashGenerated(secret), secret, false},
		{"unknown kind", 3, chosen(secret), secret, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := keys.Verify(tt.kind, &tt.sum, []byte(tt.secret)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if keys.VerifyNothing([]byte(tt.secret)) {
				t.Error("a device that does not exist was let in")
			}
		})
	}
}

func TestHashChosenIsHMAC(t *testing.T) {
	keys, path := openKeys(t)
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 4, 55, 56, 63, 64, 65, 127, 128} {
		secret := strings.Repeat("s", n)
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(secret))
		got, err := keys.HashChosen(secret)
		if err != nil || !hmac.Equal(got[:], mac.Sum(nil)) {
			t.Errorf("%d bytes: got %x, %v, want %x", n, got, err, mac.Sum(nil))
		}
	}
}

func TestHashChosenRefuses(t *testing.T) {
	keys, _ := openKeys(t)
	for _, secret := range []string{"", strings.Repeat("x", signalbox.MaxDeviceSecretLen+1)} {
		if _, err := keys.HashChosen(secret); signalbox.KindOf(err) != signalbox.KindInvalid {
			t.Errorf("%d bytes give %v", len(secret), err)
		}
	}
}

func TestOpenKeys(t *testing.T) {
	keys, path := openKeys(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 || info.Size() != 32 {
		t.Errorf("the new file has mode %v and %d bytes", info.Mode(), info.Size())
	}
	again, err := OpenKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() != keys.ID() || *again != *keys {
		t.Errorf("opened again, key %s is %s", keys.ID(), again.ID())
	}
	other, _ := openKeys(t)
	if other.ID() == keys.ID() || len(keys.ID()) != 16 {
		t.Errorf("two keys have the IDs %q and %q", keys.ID(), other.ID())
	}
}

func TestOpenKeysRefuses(t *testing.T) {
	file := func(n int, mode os.FileMode) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		says    string
	}{
		{"group may read", file(32, 0o640), "has mode 0640"},
		{"world may read", file(32, 0o604), "has mode 0604"},
		{"empty", file(0, 0o600), "has 0 bytes"},
		{"short", file(31, 0o600), "has 31 bytes"},
		{"long", file(5000, 0o600), "has 5000 bytes"},
		{"directory", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "no ordinary file"},
		{"dangling link", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Symlink(path+".gone", path); err != nil {
				t.Fatal(err)
			}
		}, "cannot be made"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret.key")
			tt.prepare(t, path)
			_, err := OpenKeys(path)
			if err == nil || !strings.Contains(err.Error(), tt.says) || signalbox.CodeOf(err) != "key_file" {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
	if _, err := OpenKeys(filepath.Join(t.TempDir(), "missing", "secret.key")); signalbox.CodeOf(err) != "key_file" {
		t.Errorf("a missing directory gives %v", err)
	}
}

func TestVerifyDoesNotAllocate(t *testing.T) {
	keys, _ := openKeys(t)
	sum, secret := HashGenerated("a"), []byte(NewSecret())
	if n := testing.AllocsPerRun(100, func() {
		keys.Verify(SecretGenerated, &sum, secret)
		keys.VerifyNothing(secret)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	keys, _ := openKeys(b)
	secret := NewSecret()
	sum, presented := HashGenerated(secret), []byte(secret)
	b.ReportAllocs()
	for b.Loop() {
		if !keys.Verify(SecretGenerated, &sum, presented) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkVerify100000(b *testing.B) {
	keys, _ := openKeys(b)
	sum, err := keys.HashChosen("1234")
	if err != nil {
		b.Fatal(err)
	}
	presented := []byte("1234")
	b.ReportAllocs()
	for b.Loop() {
		for range 100_000 {
			keys.Verify(SecretChosen, &sum, presented)
		}
	}
}

func TestLooksGenerated(t *testing.T) {
	t.Parallel()
	secret := NewSecret()
	for text, want := range map[string]bool{
		secret: true, strings.Repeat("a", 26): true, strings.Repeat("a", 25): false, strings.Repeat("a", 27): false,
		"": false, "esp01": false, strings.ToUpper(secret[:25]) + "A": false, secret[:25] + "0": false, secret[:25] + ":": false,
	} {
		if got := LooksGenerated([]byte(text)); got != want {
			t.Errorf("%q looks generated: %v, want %v", text, got, want)
		}
	}
}
