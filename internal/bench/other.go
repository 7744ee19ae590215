//go:build !linux

package bench

import (
	"context"
	"errors"
)

var errLinux = errors.New("measuring needs Linux (epoll and /proc)")

func openFiles() (uint64, error) { return 0, nil }

func runConnections(context.Context, *bencher) error { return errLinux }
func runTelemetry(context.Context, *bencher) error   { return errLinux }
func runCommands(context.Context, *bencher) error    { return errLinux }
func runReconnect(context.Context, *bencher) error   { return errLinux }
func runSurvive(context.Context, *bencher) error     { return errLinux }
func runMQTT(context.Context, *bencher) error        { return errLinux }
func runLive(context.Context, *bencher) error        { return errLinux }
func runSessions(context.Context, *bencher) error    { return errLinux }
