package app

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"signalbox"
)

// A setting is one key: where it stands in Config, what it may be, and what it means.
// Documentation, default file and environment names are all made from the list of them.
type setting struct {
	key string
	// allowed says in words what the value may be; it ends a sentence.
	allowed string
	// allowedText says the same of a single text (a variable, a flag) where that spells it in
	// another way than a file; empty: it does not.
	allowedText string
	// doc is the meaning, in whole sentences.
	doc string
	// set reads a value as a file, a variable or a flag spells it: a string, a []any of
	// strings, or nil where nothing was written. Its error tells only what was wrong.
	set func(c *Config, value any) error
	// spell writes a value that was given, for the sentence that says what is wrong with it;
	// nil writes it as it is.
	spell func(value any) string
	// get writes the value as YAML.
	get func(c *Config) string
	// field points to the place in c.
	field func(c *Config) any
}

// newSetting joins a parser and a printer to a place in Config.
func newSetting[T any](key, allowed string, at func(*Config) *T, parse func(any) (T, error), show func(T) string) setting {
	return setting{
		key: key, allowed: allowed,
		set: func(c *Config, value any) error {
			v, err := parse(value)
			if err == nil {
				*at(c) = v
			}
			return err
		},
		get:   func(c *Config) string { return show(*at(c)) },
		field: func(c *Config) any { return at(c) },
	}
}

func (s setting) means(doc string) setting {
	s.doc = doc
	return s
}

// scalar gives the text of a single value; lists have none.
func scalar(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case nil:
		return "", errors.New("there is no value")
	default:
		return "", errors.New("a single value is needed, not a list")
	}
}

// text is a setting whose value is a string that check accepts.
func text(key, allowed string, at func(*Config) *string, check func(string) error) setting {
	parse := func(value any) (string, error) {
		s, err := scalar(value)
		if err != nil {
			return "", err
		}
		return s, check(s)
	}
	return newSetting(key, allowed, at, parse, strconv.Quote)
}

func path(key string, at func(*Config) *string) setting {
	return text(key, "a file's path, or empty", at, func(string) error { return nil })
}

func address(key, allowed string, at func(*Config) *string, mayBeEmpty bool) setting {
	return text(key, allowed, at, func(s string) error {
		if s == "" && mayBeEmpty {
			return nil
		}
		_, port, err := net.SplitHostPort(s)
		if err != nil {
			return errors.New("it is not host:port")
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > math.MaxUint16 {
			return fmt.Errorf("the port %q is not a number from 0 to 65535", port)
		}
		return nil
	})
}

func word(key string, at func(*Config) *string, words ...string) setting {
	return text(key, strings.Join(words, " or "), at, func(s string) error {
		if !slices.Contains(words, s) {
			return errors.New("it is none of these words")
		}
		return nil
	})
}

func level(key string, at func(*Config) *slog.Level) setting {
	parse := func(value any) (slog.Level, error) {
		s, err := scalar(value)
		if err != nil {
			return 0, err
		}
		var l slog.Level
		if err := l.UnmarshalText([]byte(s)); err != nil {
			return 0, errors.New("it is no level")
		}
		return l, nil
	}
	return newSetting(key, "debug, info, warn or error", at, parse, func(l slog.Level) string {
		return strings.ToLower(l.String())
	})
}

func truth(key string, at func(*Config) *bool) setting {
	return newSetting(key, "true or false", at, truthOf, strconv.FormatBool)
}

func truthOf(value any) (bool, error) {
	s, err := scalar(value)
	if err != nil {
		return false, err
	}
	switch strings.ToLower(s) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	default:
		return false, errors.New("it is neither true nor false")
	}
}

func number(key string, at func(*Config) *int, low, high int) setting {
	allowed := fmt.Sprintf("a whole number from %d to %d", low, high)
	parse := func(value any) (int, error) {
		s, err := scalar(value)
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
		if err != nil {
			return 0, errors.New("it is not a whole number")
		}
		return n, inRange(n, low, high)
	}
	return newSetting(key, allowed, at, parse, strconv.Itoa)
}

func size(key string, at func(*Config) *int, low, high int) setting {
	allowed := fmt.Sprintf("a size from %s to %s, such as 512KiB or 64MiB", formatSize(low), formatSize(high))
	parse := func(value any) (int, error) {
		s, err := scalar(value)
		if err != nil {
			return 0, err
		}
		n, err := ParseSize(s)
		if err != nil {
			return 0, err
		}
		return n, inRange(n, low, high)
	}
	return newSetting(key, allowed, at, parse, formatSize)
}

func duration(key string, at func(*Config) *time.Duration, low, high time.Duration) setting {
	allowed := fmt.Sprintf("a duration from %s to %s, such as 500ms, 10s, 5m, 12h or 30d", FormatDuration(low), FormatDuration(high))
	parse := func(value any) (time.Duration, error) {
		s, err := scalar(value)
		if err != nil {
			return 0, err
		}
		d, err := ParseDuration(s)
		if err != nil {
			return 0, err
		}
		return d, inRange(d, low, high)
	}
	return newSetting(key, allowed, at, parse, FormatDuration)
}

func inRange[T int | time.Duration](v, low, high T) error {
	if v < low {
		return errors.New("it is too small")
	}
	if v > high {
		return errors.New("it is too large")
	}
	return nil
}

// texts gives the parts of a list: a YAML list, or one string with commas.
func texts(value any) ([]string, error) {
	var parts []string
	switch v := value.(type) {
	case nil:
		return nil, nil
	case []any:
		for _, item := range v {
			s, err := scalar(item)
			if err != nil {
				return nil, err
			}
			if strings.TrimSpace(s) == "" {
				return nil, errors.New("an item of the list is empty")
			}
			parts = append(parts, s)
		}
	default:
		s, err := scalar(value)
		if err != nil {
			return nil, err
		}
		parts = strings.Split(s, ",")
	}
	var kept []string
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// list is a setting of what parse accepts; what names it, examples are some of its items.
func list[T any](key, what string, examples []string, at func(*Config) *[]T, parse func(string) (T, error), show func(T) string) setting {
	parseAll := func(value any) ([]T, error) {
		parts, err := texts(value)
		if err != nil {
			return nil, err
		}
		var all []T
		for _, p := range parts {
			v, err := parse(p)
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		return all, nil
	}
	showAll := func(all []T) string {
		texts := make([]string, len(all))
		for i, v := range all {
			texts[i] = show(v)
		}
		return yamlList(texts)
	}
	s := newSetting(key, what+", such as "+yamlList(examples), at, parseAll, showAll)
	s.allowedText = what + " with commas between them, such as " + strings.Join(examples, ",")
	return s
}

func yamlList(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = strconv.Quote(t)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func networks(key string, at func(*Config) *[]netip.Prefix) setting {
	parse := func(s string) (netip.Prefix, error) {
		if a, err := netip.ParseAddr(s); err == nil {
			return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network", s)
		}
		return signalbox.Network(p), nil
	}
	return list(key, "a list of addresses and networks", []string{"127.0.0.1", "10.0.0.0/8"}, at, parse, netip.Prefix.String)
}

func origins(key string, at func(*Config) *[]string) setting {
	parse := func(s string) (string, error) {
		if s == "null" {
			return s, nil
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
			return "", fmt.Errorf("%q is not an origin", s)
		}
		return strings.ToLower(u.Scheme + "://" + u.Host), nil
	}
	return list(key, "a list of origins", []string{"https://panel.example.org", "null"}, at, parse,
		func(s string) string { return s })
}

// ParseSize reads a size in bytes: a whole number alone or with B, KiB, MiB, GiB (1024) or
// kB, MB, GB (1000).
func ParseSize(s string) (int, error) {
	digits := strings.TrimRight(strings.TrimSpace(s), "BKMGTikmgtb ")
	unit := strings.ToLower(strings.TrimSpace(strings.TrimSpace(s)[len(digits):]))
	n, err := strconv.ParseInt(strings.ReplaceAll(digits, "_", ""), 10, 64)
	if err != nil || n < 0 {
		return 0, errors.New("it is not a size")
	}
	factors := map[string]int64{"": 1, "b": 1, "kib": kib, "mib": mib, "gib": gib, "kb": 1e3, "mb": 1e6, "gb": 1e9}
	factor, ok := factors[unit]
	if !ok {
		return 0, fmt.Errorf("the unit %q is not known", unit)
	}
	if n > math.MaxInt/factor {
		return 0, errors.New("it is too large")
	}
	return int(n * factor), nil
}

func formatSize(n int) string {
	for _, u := range []struct {
		name string
		size int
	}{{"GiB", gib}, {"MiB", mib}, {"KiB", kib}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.Itoa(n/u.size) + u.name
		}
	}
	return strconv.Itoa(n) + "B"
}

// ParseDuration reads a duration in Go's spelling (1h30m, 250ms) with «d» for days of 24
// hours in front: 30d, 1d12h. 0 needs no unit; durations are never negative.
func ParseDuration(s string) (time.Duration, error) {
	rest := strings.TrimSpace(s)
	var total time.Duration
	if days, after, ok := strings.Cut(rest, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n >= 0 && n <= 36500) { // written so that NaN is refused too
			return 0, errors.New("it is not a duration")
		}
		total = time.Duration(n * float64(day))
		if rest = after; rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	switch {
	case err == nil && d >= 0 && d <= math.MaxInt64-total:
		return total + d, nil
	case err == nil && d >= 0:
		return 0, errors.New("it is too large")
	case err == nil:
		return 0, errors.New("it is negative")
	}
	if _, err := strconv.ParseFloat(rest, 64); err == nil {
		return 0, errors.New("the unit is missing")
	}
	return 0, errors.New("it is not a duration")
}

// FormatDuration writes d as ParseDuration reads it, as short as can be: 720h is 30d.
func FormatDuration(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
