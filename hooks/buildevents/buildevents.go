// Package buildevents is the built-in event hook that tells a Guix Data Service what
// becomes of builds, as the Guix Build Coordinator does:
//
//	POST /build-server/ID/build-events?token=TOKEN
//	{"items":[{"type":"build","derivation":"/gnu/store/….drv","build_id":"…","event":"succeeded","timestamp":1700000000}]}
//
// Events that wait while others are being sent go together in one request.
package buildevents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/store"
)

// Name is the name of the built-in.
const Name = "build-events"

const (
	maxItems   = 500         // of one request
	parallel   = 64          // runs at the same time, which share requests
	maxAnswer  = 64 << 10    // bytes that are read of an answer
	maxMessage = 500         // bytes of it that are kept
	timeout    = time.Minute // of one request
)

// Options are the choices of New; all but Client are required.
type Options struct {
	URL string // of the service, such as https://data.guix.gnu.org
	// BuildServer is the number that the service knows this coordinator by.
	BuildServer string
	Token       string // which the service gave out for that number
	// Client makes the requests; nil is one that gives up after a minute and follows no
	// redirections.
	Client *http.Client
}

// Sender is the hook.
type Sender struct {
	address string // with the token, which is in no error
	shown   string // without it
	client  *http.Client

	turn chan struct{} // holds the sender's token

	mu    sync.Mutex
	queue []*waiter
}

// waiter is an event that is to be sent.
type waiter struct {
	item  item
	alone bool
	done  chan struct{} // closed when err is set
	err   error
}

type item struct {
	Type       string     `json:"type"` // "build"
	Derivation store.Path `json:"derivation"`
	BuildID    string     `json:"build_id"`
	Event      string     `json:"event"`
	Timestamp  int64      `json:"timestamp"` // seconds since 1970
}

// New returns the hook, or says what is wrong with the options.
func New(o Options) (*Sender, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" {
		return nil, fmt.Errorf("%s: url %q: want one such as https://data.guix.gnu.org", Name, o.URL)
	}
	if o.BuildServer == "" || strings.Trim(o.BuildServer, "0123456789") != "" {
		return nil, fmt.Errorf("%s: build-server %q: want the number that the service has given to this coordinator", Name, o.BuildServer)
	}
	if o.Token == "" {
		return nil, fmt.Errorf("%s: no token", Name)
	}
	s := &Sender{client: o.Client, turn: make(chan struct{}, 1)}
	to := base.JoinPath("build-server", o.BuildServer, "build-events")
	s.shown = to.String()
	to.RawQuery = url.Values{"token": {o.Token}}.Encode()
	s.address = to.String()
	if s.client == nil {
		s.client = &http.Client{
			Timeout:       timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return s, nil
}

// Parallel lets events of several builds share a request.
func (s *Sender) Parallel() int { return parallel }

// eventOf returns the service's word for an event, or "" if it has none.
func eventOf(e *hooks.Event) string {
	switch e.Name {
	case hooks.BuildSubmitted:
		return "scheduled"
	case hooks.BuildStarted:
		return "started"
	case hooks.BuildSucceeded:
		return "succeeded"
	case hooks.BuildCanceled:
		return "canceled"
	case hooks.BuildTimedOut:
		return "failed-other"
	case hooks.BuildDependencyFailed:
		return "failed-dependency"
	case hooks.BuildFailed:
		switch f := e.Event.Failure; {
		case f != nil && f.Kind == api.KindDependency:
			return "failed-dependency"
		case f != nil && f.Culprit != api.CulpritDerivation:
			return "failed-other"
		}
		return "failed"
	}
	return ""
}

// Run returns when the service has taken the event.
func (s *Sender) Run(ctx context.Context, e *hooks.Event) (string, error) {
	word := eventOf(e)
	if word == "" || e.Build == nil {
		return "", nil
	}
	if e.Build.Derivation == "" {
		return "", hooks.Permanent(errors.New("the derivation of the build is no longer known"))
	}
	w := &waiter{
		item:  item{"build", e.Build.Derivation, e.Event.Build, word, e.Time.Unix()},
		alone: e.Try > 1, // what fails for another's sake has a chance of its own
		done:  make(chan struct{}),
	}
	s.mu.Lock()
	s.queue = append(s.queue, w)
	s.mu.Unlock()
	select {
	case <-w.done:
		return "", w.err
	case <-ctx.Done():
		s.withdraw(w)
		return "", context.Cause(ctx)
	case s.turn <- struct{}{}:
	}
	defer func() { <-s.turn }()
	for {
		select {
		case <-w.done:
			return "", w.err
		default:
		}
		if err := s.sendNext(ctx); err != nil {
			s.withdraw(w)
			return "", err
		}
	}
}

func (s *Sender) withdraw(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.DeleteFunc(s.queue, func(other *waiter) bool { return other == w })
}

// sendNext sends what waits, as much as fits. An error means that ctx has ended; then
// all still waits.
func (s *Sender) sendNext(ctx context.Context) error {
	s.mu.Lock()
	n := 1
	for !s.queue[0].alone && n < min(len(s.queue), maxItems) && !s.queue[n].alone {
		n++
	}
	group := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	s.mu.Unlock()
	err := s.post(ctx, group)
	if err != nil && ctx.Err() != nil {
		s.mu.Lock()
		s.queue = append(group, s.queue...)
		s.mu.Unlock()
		return context.Cause(ctx)
	}
	for _, w := range group {
		w.err = err
		close(w.done)
	}
	return nil
}

func (s *Sender) post(ctx context.Context, group []*waiter) error {
	items := make([]item, len(group))
	for i, w := range group {
		items[i] = w.item
	}
	body, err := json.Marshal(map[string][]item{"items": items})
	if err != nil {
		return hooks.Permanent(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.address, bytes.NewReader(body))
	if err != nil {
		return hooks.Permanent(fmt.Errorf("POST %s: not a valid address", s.shown))
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		// A *url.Error has the address, and so the token.
		if named := new(url.Error); errors.As(err, &named) {
			err = named.Err
		}
		return fmt.Errorf("POST %s: %w", s.shown, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what there is of it says more than why there is no more
	return s.judge(resp, text)
}

// judge says what an answer means: taken, to be tried again, or hopeless.
func (s *Sender) judge(resp *http.Response, text []byte) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	err := fmt.Errorf("POST %s: %s%s", s.shown, resp.Status, message(text))
	switch {
	case resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized:
		err = fmt.Errorf("%w; is the token that of this build server?", err)
	case resp.StatusCode == http.StatusNotFound:
		err = fmt.Errorf("%w; is that the address of a Guix Data Service?", err)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		err = fmt.Errorf("%w; it is elsewhere: %s", err, location(resp))
	case resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return err
	}
	return hooks.Permanent(err)
}

// location is where a redirection leads, without the query, which may have the token.
func location(resp *http.Response) string {
	to, err := resp.Location()
	if err != nil {
		return "it doesn't say where"
	}
	to.RawQuery = ""
	return to.String()
}

// message returns what an answer says, with a colon in front.
func message(text []byte) string {
	var answer struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &answer) != nil || answer.Error == "" {
		answer.Error = strings.TrimSpace(string(text))
	}
	if len(answer.Error) > maxMessage {
		answer.Error = answer.Error[:maxMessage] + "…"
	}
	if answer.Error == "" {
		return ""
	}
	return ": " + answer.Error
}
