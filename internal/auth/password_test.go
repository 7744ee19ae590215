package auth

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"signalbox"
)

// quick computes passwords at the lowest cost.
func quick() *Passwords { return NewPasswords(bcrypt.MinCost, 0) }

func TestPasswords(t *testing.T) {
	p := quick()
	tests := []struct {
		name, password string
		code           string
	}{
		{"shortest", "12345678", ""},
		{"short", "1234567", "invalid_password"},
		{"short, though many bytes", "пароль", "invalid_password"},
		{"not English", "парольпароль", ""},
		{"longest", strings.Repeat("x", 72), ""},
		{"long", strings.Repeat("x", 73), "invalid_password"},
		{"a zero inside", "before\x00after", ""},
		{"generated", NewPassword(), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hash, err := p.HashPassword(t.Context(), tt.password)
			if tt.code != "" {
				if signalbox.CodeOf(err) != tt.code || signalbox.KindOf(err) != signalbox.KindInvalid {
					t.Errorf("got %v, want %s", err, tt.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckHash(hash); err != nil {
				t.Errorf("our own hash is refused: %v", err)
			}
			if right, err := p.CheckPassword(t.Context(), hash, tt.password); !right || err != nil {
				t.Errorf("the right password gives %v, %v", right, err)
			}
			if right, err := p.CheckPassword(t.Context(), hash, tt.password[1:]); right || err != nil {
				t.Errorf("a wrong password gives %v, %v", right, err)
			}
			if right, err := p.CheckPassword(t.Context(), "", tt.password); right || err != nil {
				t.Errorf("nobody's password gives %v, %v", right, err)
			}
		})
	}
	if _, err := p.CheckPassword(t.Context(), "", strings.Repeat("x", 73)); signalbox.KindOf(err) != signalbox.KindInvalid {
		t.Errorf("checking 73 bytes gives %v", err)
	}
	if _, err := p.CheckPassword(t.Context(), "nonsense", "x"); err == nil {
		t.Error("a damaged hash is no error")
	}
}

func TestNewPassword(t *testing.T) {
	form := regexp.MustCompile(`^[a-z2-9]{4}(-[a-z2-9]{4}){3}$`)
	if a, b := NewPassword(), NewPassword(); a == b || !form.MatchString(a) {
		t.Errorf("got %q and %q", a, b)
	}
}

func TestPasswordsOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPasswords(bcrypt.MinCost, 3)
		done, err := p.wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		results := make(chan error, 3)
		for i := range 3 {
			go func() {
				used := t.Context()
				if i == 0 {
					used = ctx
				}
				_, err := p.CheckPassword(used, "", "whatever")
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := p.CheckPassword(t.Context(), "", "whatever"); signalbox.KindOf(err) != signalbox.KindLimited || signalbox.CodeOf(err) != "busy" {
			t.Errorf("the one too many gets %v", err)
		}
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the one without patience gets %v", err)
		}
		if len(results) != 0 {
			t.Error("somebody did not wait for the turn")
		}
		done()
		for range 2 {
			if err := <-results; err != nil {
				t.Errorf("one in the queue gets %v", err)
			}
		}
		if n := p.present.Load(); n != 0 {
			t.Errorf("%d are still counted as present", n)
		}
	})
}

// What has the form of a bcrypt hash; it is nobody's.
const (
	tail  = "abcdefghijklmnopqrstuuYhmcC2pR8nrmGXQmFvUQ2yZ4QK8bq7S"
	hash4 = "$2b$04$" + tail
)

func TestCheckHash(t *testing.T) {
	tests := []struct {
		name, hash, says string
	}{
		{"2a", "$2a$10$" + tail, ""},
		{"2b", "$2b$12$" + tail, ""},
		{"2y", "$2y$15$" + tail, ""},
		{"lowest cost", hash4, ""},
		{"cost 16", "$2b$16$" + tail, "has cost 16"},
		{"cost 31", "$2b$31$" + tail, "has cost 31"},
		{"cost 3", "$2b$03$" + tail, "has cost 3"},
		{"cost without digits", "$2b$1x$" + tail, "has no cost"},
		{"cost without end", "$2b$100" + tail, "has no cost"},
		{"2x", "$2x$10$" + tail, "is not bcrypt"},
		{"2", "$2$10$" + tail, "is not bcrypt"},
		{"empty", "", "is not bcrypt"},
		{"plain", "1234", "is not bcrypt"},
		{"werkzeug", "pbkdf2:sha256:260000$abc$def", "is not bcrypt"},
		{"short", hash4[:59], "has 59 characters"},
		{"long", hash4 + "x", "has 61 characters"},
		{"another character", hash4[:20] + "=" + hash4[21:], "at place 21"},
		{"damaged end", hash4[:59] + "T", "ends in"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckHash(tt.hash)
			if tt.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) || signalbox.KindOf(err) != signalbox.KindInvalid {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

// TestForeignHashes holds that what other implementations made verifies: the marks differ,
// the computation does not. The first two are public test vectors of bcrypt for Python
// and of crypt_blowfish.
func TestForeignHashes(t *testing.T) {
	const vector = "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
	tests := []struct{ hash, password string }{
		{"$2b$04$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm", "Kk4DQuMMfZL9o"},
		{"$2a$05$" + vector, "U*U"},
		{"$2b$05$" + vector, "U*U"},
		{"$2y$05$" + vector, "U*U"},
	}
	for _, tt := range tests {
		if err := CheckHash(tt.hash); err != nil {
			t.Errorf("%s: %v", tt.hash, err)
		}
		if right, err := quick().CheckPassword(t.Context(), tt.hash, tt.password); !right || err != nil {
			t.Errorf("%s: %v, %v", tt.hash, right, err)
		}
		if right, err := quick().CheckPassword(t.Context(), tt.hash, tt.password+"x"); right || err != nil {
			t.Errorf("%s with a wrong password: %v, %v", tt.hash, right, err)
		}
	}
}

// FuzzCheckHash: what is let in can be checked against, without an error and at the cost
// that was allowed.
func FuzzCheckHash(f *testing.F) {
	for _, s := range []string{"", hash4, "$2b$15$" + tail, "$2b$16$" + tail, hash4[:59], "$2a$04$" + strings.Repeat(".", 53), "$2y$04$" + strings.Repeat("/", 53), "$2b$-4$" + tail} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, hash string) {
		if err := CheckHash(hash); err != nil {
			if signalbox.KindOf(err) != signalbox.KindInvalid {
				t.Errorf("kind %d: %v", signalbox.KindOf(err), err)
			}
			return
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil || cost > MaxImportCost {
			t.Fatalf("%q was let in: cost %d, %v", hash, cost, err)
		}
		if cost == bcrypt.MinCost {
			if _, err := quick().CheckPassword(t.Context(), hash, "password"); err != nil {
				t.Errorf("%q was let in: %v", hash, err)
			}
		}
	})
}
