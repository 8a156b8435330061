package apiserver

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/catalogue"
	"lighter/internal/dataservice/serve"
	"lighter/internal/evaluate"
	"lighter/internal/human"
)

const (
	// dataServicePath is below which the coordinator answers like a Guix Data Service.
	dataServicePath = "/v1/data-service/"
	// maxRevisionBody bounds the lines of an evaluation: a million of 2 KB.
	maxRevisionBody = 2 << 30
	// linePatience is how long the lines of an evaluation, which goes on meanwhile, may rest.
	linePatience = 30 * time.Minute
)

func errNoCatalogue() error {
	return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: "the catalogue of revisions could not be opened; the coordinator's log says why"}
}

// revisionCalls answers about the revisions of a catalogue.
type revisionCalls struct {
	// running returns a context that ends with the coordinator too.
	running     func(context.Context) (context.Context, context.CancelFunc)
	log         *slog.Logger
	catalogue   *catalogue.Catalogue // nil where it could not be opened
	dataService http.Handler
	recording   chan struct{} // holds one value while a revision is recorded
}

func newRevisionCalls(s *Server, c *catalogue.Catalogue) *revisionCalls {
	o := &revisionCalls{running: s.c.UntilStopped, log: s.log, catalogue: c, recording: make(chan struct{}, 1)}
	if c != nil {
		o.dataService = http.StripPrefix(strings.TrimSuffix(dataServicePath, "/"), serve.New(c, s.log))
	}
	return o
}

// get answers like a data service.
func (s *revisionCalls) get(w http.ResponseWriter, r *http.Request) error {
	if s.catalogue == nil {
		return errNoCatalogue()
	}
	s.dataService.ServeHTTP(w, r)
	return nil
}

// post records the packages that the body's lines have as a revision. Of several such requests one is
// read after the other.
func (s *revisionCalls) post(w http.ResponseWriter, r *http.Request) error {
	if s.catalogue == nil {
		return errNoCatalogue()
	}
	source, keep, err := sourceOf(r.URL.Query())
	if err != nil {
		return err
	}
	ctx, cancel := s.running(r.Context())
	defer cancel()
	select {
	case s.recording <- struct{}{}:
		defer func() { <-s.recording }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done, err := s.catalogue.Record(ctx, source, packagesIn(w, r))
	if err != nil {
		return recordError(err)
	}
	answered := recorded(&done)
	if keep > 0 {
		if answered.Dropped, err = s.catalogue.Drop(ctx, done.Revision.Branch, keep); err != nil {
			return err
		}
	}
	s.log.Info("a revision is recorded", "branch", source.Branch, "commit", source.Commit, "packages", answered.Packages, "new", answered.NewDerivations, "errors", answered.Errors)
	return answer(w, answered)
}

// sourceOf reads what a revision is of, and how many of its branch are kept; 0 is all.
func sourceOf(q url.Values) (s catalogue.Source, keep int, err error) {
	s = catalogue.Source{Repository: q.Get("repository"), URL: q.Get("url"), Branch: q.Get("branch"), Commit: q.Get("commit")}
	if s.Date, err = time.Parse(time.RFC3339, q.Get("date")); err != nil {
		return s, 0, api.BadRequest("date: %.80q: want one such as 2026-11-20T22:53:00Z", q.Get("date"))
	}
	if text := q.Get("keep"); text != "" {
		if keep, err = strconv.Atoi(text); err != nil || keep < 1 {
			return s, 0, api.BadRequest("keep: %.80q: want how many revisions of the branch are kept, from 1 on", text)
		}
	}
	if err := s.Check(); err != nil {
		return s, 0, api.BadRequest("%v", err)
	}
	return s, keep, nil
}

// packagesIn reads a body's lines, and waits long for each.
func packagesIn(w http.ResponseWriter, r *http.Request) iter.Seq2[*evaluate.Package, error] {
	return evaluate.ReadPackages(&patientReader{r.Body, http.NewResponseController(w)})
}

type patientReader struct {
	io.Reader
	rc *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(linePatience)) // which not every test's writer can
	n, err := p.Reader.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &api.Error{Status: http.StatusRequestTimeout, Code: api.CodeBadRequest, Message: "no line came for " + linePatience.String()}
	}
	return n, err
}

// recordError says whose fault it is that a revision was not recorded.
func recordError(err error) error {
	var input *human.InputError
	switch {
	case errors.Is(err, catalogue.ErrInvalid), errors.As(err, &input):
		return api.BadRequest("%v", err)
	case errors.Is(err, catalogue.ErrDiskFull):
		return &api.Error{Status: http.StatusInsufficientStorage, Code: api.CodeDiskFull, Message: err.Error()}
	}
	return bodyError(err)
}

func recorded(r *catalogue.Recorded) *api.RecordedRevision {
	return &api.RecordedRevision{
		Commit: r.Revision.Commit, Packages: r.Revision.Packages, Errors: r.Revision.Errors, Derivations: r.Revision.Listed,
		NewPackages: r.New, ChangedPackages: r.Changed, GonePackages: r.Gone, NewDerivations: r.NewDerivations, GoneDerivations: r.GoneDerivations,
	}
}
