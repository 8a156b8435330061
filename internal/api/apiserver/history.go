package apiserver

import (
	"net/http"

	"lighter/internal/api"
	"lighter/internal/history"
)

// historyMemory is what the longest answer about history takes.
const historyMemory = 64 << 20

func (s *Server) getHistory(w http.ResponseWriter, r *http.Request) error {
	q, err := api.ParseHistoryQuery(r.URL.Query(), s.c.Now())
	if err != nil {
		return api.BadRequest("%s", err)
	}
	steps := history.NewSteps(*q)
	first, last := steps.Hours()
	if err := s.ledger.Hours(r.Context(), first, last, steps.Add); err != nil {
		return err
	}
	return answer(w, steps.History())
}
