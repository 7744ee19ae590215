package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"signalbox"
)

// The exit codes.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitRefused     = 4
	ExitUnavailable = 5
	ExitDevice      = 6
	ExitInterrupted = 130
)

const exitCodeHelp = `Exit codes:
  0    done
  1    it failed; standard error says why
  2    wrong usage, a wrong value or a wrong configuration
  3    the device, user, token or command does not exist
  4    refused: no credential, a wrong one, or one without the right
  5    unavailable or too late: no hub, an overloaded one, a device that is away,
       a command that was not settled in time
  6    the device answered that the command failed
  130  interrupted
`

// usageError is a fault of the command line itself.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// deviceError is a command that its device answered with a failure.
type deviceError struct{ message string }

func (e deviceError) Error() string { return e.message }

// failureError ends with code 1 whatever the kind of its cause: the hub itself could not
// be opened or run.
type failureError struct{ err error }

func (e failureError) Error() string { return e.err.Error() }
func (e failureError) Unwrap() error { return e.err }

// silentError ends with a code when everything has been said already.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// hintedError is an error behind which a hint is told.
type hintedError struct {
	err  error
	hint string
}

func (e hintedError) Error() string { return e.err.Error() }
func (e hintedError) Unwrap() error { return e.err }

// exitCode maps an error to the exit code, the one place where that is done.
func exitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[silentError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return ExitUsage
	}
	if _, ok := errors.AsType[failureError](err); ok {
		return ExitFailure
	}
	if _, ok := errors.AsType[deviceError](err); ok {
		return ExitDevice
	}
	if e, ok := errors.AsType[*signalbox.Error](err); ok {
		return exitCodeOfKind(e)
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, context.DeadlineExceeded) {
		return ExitUnavailable
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	return ExitFailure
}

func exitCodeOfKind(e *signalbox.Error) int {
	switch e.Kind {
	case signalbox.KindInvalid, signalbox.KindTooLarge:
		return ExitUsage
	case signalbox.KindNotFound:
		return ExitNotFound
	case signalbox.KindUnauthorized, signalbox.KindForbidden:
		return ExitRefused
	case signalbox.KindLimited, signalbox.KindUnavailable:
		return ExitUnavailable
	case signalbox.KindConflict:
		if e.Code == "device_offline" {
			return ExitUnavailable
		}
		return ExitFailure
	default:
		return ExitFailure
	}
}

// report tells an error on standard error: one sentence, for wrong usage with the way to
// the help.
func (p *Program) report(cmd *cobra.Command, err error) {
	if _, ok := errors.AsType[silentError](err); ok {
		return
	}
	text := strings.TrimRight(clean(err.Error()), "\n")
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	_, _ = fmt.Fprintf(p.Stderr, "signalbox: %s\n", text)
	if e, ok := errors.AsType[hintedError](err); ok {
		_, _ = fmt.Fprintln(p.Stderr, e.hint)
	}
	if _, ok := errors.AsType[usageError](err); ok && cmd != nil {
		_, _ = fmt.Fprintf(p.Stderr, "See «%s --help».\n", cmd.CommandPath())
	}
}
