package signalbox

import (
	"errors"
	"fmt"
)

// Kind says what sort of fault an error is. Each protocol maps it once: to an HTTP
// status, a WebSocket answer, an exit code.
type Kind uint8

// The kinds of error.
const (
	// KindInternal is a fault of the hub; the message shown to others is general.
	KindInternal Kind = iota
	// KindInvalid is input that can never work; the message says what is allowed.
	KindInvalid
	// KindUnauthorized is a missing or wrong credential.
	KindUnauthorized
	// KindForbidden is a good credential without the right.
	KindForbidden
	// KindNotFound is a device, command, user or token that does not exist.
	KindNotFound
	// KindConflict is something that exists already or is in another state.
	KindConflict
	// KindTooLarge is input over a size limit.
	KindTooLarge
	// KindLimited is too much at once; trying later can work.
	KindLimited
	// KindUnavailable is a part that is away for now: the store, a full disk, a hub
	// that is stopping.
	KindUnavailable
)

// Error is an error a person may see.
type Error struct {
	Kind Kind
	// Code is a short stable word for programs: device_offline, name_taken…
	Code string
	// Message is a sentence: what was wrong, with which value, what is allowed.
	Message string
	// Err is the cause, for the log; it is never shown to an outsider.
	Err error
}

// Error gives the message, and the cause where there is one.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error without a cause.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap makes an Error with a cause that stays out of the message.
func Wrap(kind Kind, code string, cause error, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// KindOf gives the kind of the first Error in err's chain, KindInternal without one.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// CodeOf gives the code of the first Error in err's chain, «internal» without one.
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return "internal"
}
