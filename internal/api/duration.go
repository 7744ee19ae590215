package api

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
)

const durationWords = "allowed are durations such as 500ms, 30s, 10m, 24h, 7d, 1h30m or PT30S"

// Duration is a span of time in a request: a JSON string such as "30s", "1h30m", "7d" or,
// by ISO 8601, "PT30S" and "P7D".
type Duration time.Duration

// durationPattern lets through all that parseDuration reads, and little else.
const durationPattern = `^(0|P[0-9WDTHMS.,]+|(\d{1,6}w)?(\d{1,6}d)?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*)$`

// UnmarshalJSON reads a duration; null is 0.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*d = 0
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_duration", "a duration is %.60s; %s, as a string", b, durationWords)
	}
	v, ok := parseDuration(text)
	if !ok {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_duration", "a duration is %.60q; %s", text, durationWords)
	}
	*d = Duration(v)
	return nil
}

// Schema implements huma.SchemaProvider.
func (Duration) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: durationPattern, PatternDescription: "a duration such as 500ms, 30s, 10m, 24h, 7d, 1h30m or PT30S",
		Description: "A duration such as 500ms, 30s, 10m, 24h or 7d; ISO 8601 (PT30S, P7D) will do.", Examples: []any{"30s"},
	}
}

var (
	withDays = regexp.MustCompile(`^(\d{1,6})([dw])(.*)$`)
	isoForm  = regexp.MustCompile(`^P(?:(\d{1,6})W)?(?:(\d{1,6})D)?(?:T(?:(\d{1,8})H)?(?:(\d{1,8})M)?(?:(\d{1,10}(?:[.,]\d{1,9})?)S)?)?$`)
)

const (
	day = 24 * time.Hour
	// maxDuration bounds each part of a duration: 50 years, so that the sum of three fits.
	maxDuration = 50 * 366 * day
)

// parseDuration reads a span of time that is not negative.
func parseDuration(text string) (time.Duration, bool) {
	if text == "0" {
		return 0, true
	}
	if strings.HasPrefix(text, "P") {
		return parseISO(text)
	}
	var sum time.Duration
	for _, unit := range []string{"w", "d"} {
		m := withDays.FindStringSubmatch(text)
		if len(m) == 0 || m[2] != unit {
			continue
		}
		n, _ := strconv.Atoi(m[1]) // at most six digits
		days := n
		if unit == "w" {
			days *= 7
		}
		if days > int(maxDuration/day) {
			return 0, false
		}
		sum += time.Duration(days) * day
		if text = m[3]; text == "" {
			return sum, true
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || strings.ContainsAny(text[:1], "+-") || d > maxDuration {
		return 0, false
	}
	return sum + d, true
}

// parseISO reads the durations of ISO 8601 that have the same length everywhere: weeks,
// days, hours, minutes and seconds.
func parseISO(text string) (time.Duration, bool) {
	m := isoForm.FindStringSubmatch(text)
	if m == nil || text == "P" || strings.HasSuffix(text, "T") {
		return 0, false
	}
	sum := 0.0
	for i, unit := range []time.Duration{7 * day, day, time.Hour, time.Minute, time.Second} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(strings.Replace(m[i+1], ",", ".", 1), 64)
		if err != nil {
			return 0, false
		}
		sum += n * float64(unit)
	}
	if sum > float64(maxDuration) {
		return 0, false
	}
	return time.Duration(sum), true
}
