package conformance_test

import (
	"slices"
	"strings"
	"testing"

	"signalbox/internal/wire/packet"
)

// check holds some statements of the standards.
type check struct {
	name string
	// v311 and v5 are the numbers of the statements in each standard, with spaces between.
	// Without any the check does not run for that version.
	v311, v5 string
	run      func(t trial, v packet.Version)
}

// trial is a run of a check.
type trial struct{ *testing.T }

// checks are all of them, in the order of the standards.
func checks() []check {
	return slices.Concat(
		connectChecks(), refusalChecks(), sessionChecks(), keepAliveChecks(), willChecks(),
		publishChecks(), forwardChecks(), aliasChecks(), expiryChecks(), retainedChecks(),
		qosChecks(), resendChecks(), limitChecks(), subscribeChecks(), unsubscribeChecks(), topicChecks(), sharedChecks(),
		malformedChecks(), textChecks(), disconnectChecks(), authChecks(), webSocketChecks(),
	)
}

var versions = []struct {
	name    string
	version packet.Version
}{{"3.1.1", packet.V311}, {"5.0", packet.V5}}

func (c check) numbers(v packet.Version) []string {
	if v == packet.V311 {
		return strings.Fields(c.v311)
	}
	return strings.Fields(c.v5)
}

// TestStatements runs the checks. One is named by the statements it holds:
// TestStatements/5.0/3.1.0-2/second_CONNECT.
func TestStatements(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			for _, c := range checks() {
				numbers := c.numbers(v.version)
				if len(numbers) == 0 {
					continue
				}
				t.Run(strings.Join(numbers, "+")+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					c.run(trial{t}, v.version)
				})
			}
		})
	}
}
