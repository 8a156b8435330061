// Package reply says what clients are told of an error.
package reply

import (
	"context"
	"errors"
	"net/http"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/peer"
	"lighter/internal/ledger"
)

// Stopping is the cause of the end of everything that a coordinator started, when it stops.
const Stopping = peer.Ended("the coordinator stops")

// Of finds the answer for an error.
func Of(err error) *api.Error {
	var answer *api.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &tooLarge):
		return api.BadRequest("the body has more than %d bytes", tooLarge.Limit)
	case errors.Is(err, ledger.ErrNotFound):
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: err.Error()}
	case errors.Is(err, buildlog.ErrNoLog):
		return &api.Error{Status: http.StatusNotFound, Code: api.CodeNotFound, Message: err.Error()}
	case errors.Is(err, ledger.ErrDiskFull):
		return &api.Error{Status: http.StatusInsufficientStorage, Code: api.CodeDiskFull, Message: err.Error()}
	case errors.Is(err, Stopping), errors.Is(err, ledger.ErrClosed), errors.Is(err, context.Canceled):
		return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "the coordinator stops"}
	}
	return &api.Error{Status: http.StatusInternalServerError, Code: api.CodeInternal, Message: err.Error()}
}
