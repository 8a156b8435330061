package api

// RecordedRevision says what a revision has that was recorded, and how it differs from the one that its branch had before.
type RecordedRevision struct {
	Commit          string `json:"commit"`
	Packages        int    `json:"packages"`    // names with versions
	Derivations     int    `json:"derivations"` // for all systems and targets
	Errors          int    `json:"errors"`      // derivations that could not be computed
	NewPackages     int    `json:"newPackages"`
	ChangedPackages int    `json:"changedPackages"`
	GonePackages    int    `json:"gonePackages"`
	NewDerivations  int    `json:"newDerivations"`
	GoneDerivations int    `json:"goneDerivations"`
	Dropped         int    `json:"dropped"` // older revisions that are no longer kept
}
