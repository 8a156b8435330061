package apiserver

import (
	"net/http"
	"time"

	"lighter/internal/api"
	"lighter/internal/estimates"
)

func (s *Server) getEstimates(w http.ResponseWriter, r *http.Request) error {
	pattern := r.URL.Query().Get("name")
	if err := api.CheckText("name", pattern, api.MaxName); err != nil {
		return err
	}
	list, err := estimates.List(r.Context(), s.ledger, pattern)
	if err != nil {
		return api.BadRequest("%v", err)
	}
	return answer(w, list)
}

// getSamples writes a file of samples. A ledger that fails on the way cuts it short, as a client sees.
func (s *Server) getSamples(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/jsonl")
	if err := estimates.Export(r.Context(), s.ledger, &patientWriter{w}, r.URL.Query().Get("machines") == "1"); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// patientWriter gives a client that long to take each part of a long answer.
type patientWriter struct{ http.ResponseWriter }

func (w *patientWriter) Write(p []byte) (int, error) {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(answerPatience)) // which not every test's writer can
	return w.ResponseWriter.Write(p)
}

func (s *Server) postSamples(w http.ResponseWriter, r *http.Request) error {
	samples, err := estimates.Read(r.Body)
	if err != nil {
		return api.BadRequest("%v", err)
	}
	done, err := estimates.Import(r.Context(), s.ledger, samples)
	if err != nil {
		return err
	}
	return answer(w, done)
}
