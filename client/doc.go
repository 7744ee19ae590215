// Package client speaks the HTTP API of a Signalbox hub: for central controllers, scripts
// and command lines. It imports the standard library and Signalbox's nouns only.
//
//	hub, err := client.New("https://hub.example:8080", client.WithToken(token))
//	…
//	c, err := hub.Send(ctx, "esp01", client.Send{Name: "servo1", Value: new("90"), Wait: 5 * time.Second})
//
// Errors. What the hub refuses comes back as a *signalbox.Error with the Kind, Code and
// Message of its problem document (RFC 9457); a hub that cannot be reached is
// KindUnavailable with code unreachable. The end of a context gives the context's error.
//
// Concurrency. A Hub may be used from any number of goroutines. It retries nothing: a
// command with an IdempotencyKey can be sent again safely by the caller. All but streams
// and imports are bounded by the context alone.
package client
