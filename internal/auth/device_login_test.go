package auth

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// site is the device logins of a hub with the device esp01, whose secret is 1234.
type site struct {
	t      *testing.T
	logins *DeviceLogins
	keys   *Keys
	device Attempt
}

func newSite(t *testing.T, cfg DeviceLoginsConfig) *site {
	t.Helper()
	keys, err := OpenKeys(filepath.Join(t.TempDir(), "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, keys: keys, logins: NewDeviceLogins(keys, cfg)}
	s.device = Attempt{Name: []byte("esp01"), Exists: true, Allowed: true, Secrets: 1}
	s.choose("1234")
	return s
}

func (s *site) choose(secret string) {
	s.t.Helper()
	sum, err := s.keys.HashChosen(secret)
	if err != nil {
		s.t.Fatal(err)
	}
	s.device.Kind, s.device.Sum = SecretChosen, sum
}

func (s *site) try(secret string, from netip.Addr) Outcome {
	a := s.device
	a.Secret, a.Address = []byte(secret), from
	return s.logins.Check(&a, time.Now())
}

func (s *site) want(secret string, from netip.Addr, want Outcome) {
	s.t.Helper()
	if got := s.try(secret, from); got != want {
		s.t.Errorf("esp01 with %s from %s: outcome %d, want %d", secret, from, got, want)
	}
}

// TestGuessingADevice guesses for days at the secret of a device, as fast as it goes, and
// counts how many secrets were checked.
func TestGuessingADevice(t *testing.T) {
	tests := []struct {
		name string
		from netip.Addr
		seen bool // the device's latest login came from there
	}{
		{"from where the device has logged in", home, false},
		{"from where it has logged in before a restart", home, true},
		{"from elsewhere", away, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, DeviceLoginsConfig{})
				s.device.Seen = tt.seen
				s.want("1234", home, LoginRight)
				checked, told, guess := 0, 0, 0
				const days = 10
				for began := time.Now(); time.Since(began) < days*24*time.Hour; time.Sleep(20 * time.Second) {
					for range 3 {
						switch s.try(fmt.Sprintf("guess %d", guess), tt.from) {
						case LoginRight:
							t.Fatal("a wrong secret was right")
						case LoginSpent:
							told++
							fallthrough
						case LoginWrong:
							checked++
							guess++
						case LoginDelayed:
						}
					}
				}
				if most := (days + 1) * DefaultDailyGuesses; checked > most || checked < most-DefaultDailyGuesses {
					t.Errorf("%d secrets were checked in %d days, want about %d", checked, days, most)
				}
				if told < days-1 || told > days+1 {
					t.Errorf("it was told %d times, want about once a day", told)
				}
				if n := s.logins.Spent(); n != uint64(told) {
					t.Errorf("it was counted %d times and told %d times", n, told)
				}
				if tt.from == away {
					s.want("1234", home, LoginRight) // nobody locks it out of its place
				}
				time.Sleep(time.Hour)
				s.want("1234", tt.from, LoginRight)
			})
		})
	}
}

// TestRightSecretIsNotDelayed has wrong boards at the address of a good one.
func TestRightSecretIsNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, DeviceLoginsConfig{})
		s.want("1234", home, LoginRight)
		stranger := Attempt{Name: []byte("esp02"), Address: home, Secret: []byte("no")}
		for range 3 * 24 * 3600 * 2 / 100 {
			for range 3 { // boards under the good one's name, with secrets of their own
				s.want("0000", home, LoginWrong)
				s.want("9999", home, LoginWrong)
			}
			s.logins.Check(&stranger, time.Now()) // a board nobody knows
			s.want("1234", home, LoginRight)
			time.Sleep(50 * time.Second)
		}
		if s.logins.Repeated() == 0 || s.logins.Spent() != 0 {
			t.Errorf("%d repeated, %d spent; want some and none", s.logins.Repeated(), s.logins.Spent())
		}
	})
}

// TestNewBoardAtASite logs in for the first time where a wrong board keeps failing.
func TestNewBoardAtASite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, DeviceLoginsConfig{})
		fail := func(n int) {
			for i := range n {
				s.logins.Check(&Attempt{Name: []byte("esp02"), Address: home, Secret: fmt.Appendf(nil, "%d", i)}, time.Now())
			}
		}
		fail(6)
		s.want("1234", home, LoginDelayed) // nobody vouches for the address
		good := Attempt{Name: []byte("esp03"), Address: home, Secret: []byte("1234"), Exists: true, Allowed: true, Seen: true, Kind: SecretChosen, Sum: s.device.Sum, Secrets: 3}
		if got := s.logins.Check(&good, time.Now()); got != LoginRight {
			t.Fatalf("the good board has outcome %d", got)
		}
		s.want("1234", home, LoginRight) // the good one does
	})
}

// TestTooManyGuessesAtASite spends what an address may guess at all its devices.
func TestTooManyGuessesAtASite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, DeviceLoginsConfig{})
		s.want("1234", home, LoginRight)
		checked := 0
		for i := range 5000 {
			a := s.device
			a.Name, a.Secret, a.Address, a.Secrets = fmt.Appendf(nil, "other%d", i), []byte("0000"), home, uint64(i)+2
			if s.logins.Check(&a, time.Now()) != LoginDelayed {
				checked++
			}
		}
		if want := DefaultDailyGuesses * addressGuesses; checked != want {
			t.Errorf("%d devices were tried, want %d", checked, want)
		}
		s.want("1234", home, LoginRight)
	})
}

func TestGeneratedSecretIsNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, DeviceLoginsConfig{})
		secret := NewSecret()
		s.device.Kind, s.device.Sum = SecretGenerated, HashGenerated(secret)
		s.want(secret, home, LoginRight)
		for i := range 1000 {
			s.want(fmt.Sprint(i), home, LoginWrong)
			s.want(secret, home, LoginRight)
		}
		for i := range 6 {
			s.try(fmt.Sprint(i), away)
		}
		s.want(secret, away, LoginDelayed)
	})
}

func TestChangedSecretHasAllGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, DeviceLoginsConfig{DailyGuesses: 6})
		s.want("1234", home, LoginRight)
		for i := range 5 {
			s.want(fmt.Sprint(i), home, LoginWrong)
		}
		s.want("5", home, LoginSpent)
		s.want("1234", home, LoginDelayed)
		s.choose("5678")
		s.device.Secrets++
		s.want("5678", home, LoginRight)
		s.want("1234", home, LoginWrong)
	})
}

func TestDisabledDevice(t *testing.T) {
	s := newSite(t, DeviceLoginsConfig{})
	s.device.Allowed = false
	s.want("1234", home, LoginWrong)
	s.want("1234", netip.Addr{}, LoginWrong)
	s.device.Allowed = true
	s.want("1234", home, LoginRight)
	s.want("1234", netip.Addr{}, LoginRight)
}

// TestFiveFailures is the back-off where nobody has logged in.
func TestFiveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, DeviceLoginsConfig{})
		for range 5 {
			s.want("0000", away, LoginWrong)
		}
		s.want("1234", away, LoginDelayed)
		s.want("1234", home, LoginRight) // never per name alone
		time.Sleep(time.Second)
		s.want("1234", away, LoginRight)
		if f, r := s.logins.Failures(), s.logins.Refused(); f != 5 || r != 1 {
			t.Errorf("counted %d failures and %d refused, want 5 and 1", f, r)
		}
	})
}

func TestDeviceLoginDoesNotAllocate(t *testing.T) {
	s := newSite(t, DeviceLoginsConfig{})
	a := s.device
	a.Secret, a.Address = []byte("0000"), home
	now := time.Now()
	s.logins.Check(&a, now)
	if n := testing.AllocsPerRun(100, func() { s.logins.Check(&a, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDeviceLogin(b *testing.B) {
	keys, err := OpenKeys(filepath.Join(b.TempDir(), "secret.key"))
	if err != nil {
		b.Fatal(err)
	}
	sum, err := keys.HashChosen("1234")
	if err != nil {
		b.Fatal(err)
	}
	for _, secret := range []string{"1234", "0000"} {
		b.Run(secret, func(b *testing.B) {
			l, now := NewDeviceLogins(keys, DeviceLoginsConfig{}), time.Now()
			a := Attempt{Name: []byte("esp01"), Secret: []byte(secret), Address: home, Exists: true, Allowed: true, Seen: true, Kind: SecretChosen, Sum: sum, Secrets: 1}
			b.ReportAllocs()
			for b.Loop() {
				l.Check(&a, now)
			}
		})
	}
}
