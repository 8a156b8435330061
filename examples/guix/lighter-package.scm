;;; A package of lighter as "make build agents" made it: the programs are static, and need nothing
;;; at run time. Where build/ has no agent for a platform, machines of that platform get none.
;;;
;;; make build agents
;;; guix package -f examples/guix/lighter-package.scm   # for Guix System: lighter-service.scm

(define-module (lighter-package)
  #:use-module (guix gexp)
  #:use-module (guix packages)
  #:use-module (guix build-system copy)
  #:use-module ((guix licenses) #:prefix license:)
  #:use-module (srfi srfi-1)
  #:export (lighter))

(define programs '("lighter" "lighter-agent" "lighter-guix"))

(define (wanted? file stat)
  "Select what is installed from build/, which may hold more."
  (or (and (member (basename file) programs)
           (string=? (basename (dirname file)) "build"))
      (string=? (basename file) "agents")
      (string=? (basename (dirname file)) "agents")))

(define lighter
  (package
    (name "lighter")
    (version "0.1.0")
    (source (local-file "../../build" "lighter-build"
                        #:recursive? #t #:select? wanted?))
    (build-system copy-build-system)
    (arguments
     (list #:strip-binaries? #f          ;they are already
           #:validate-runpath? #f        ;they have none
           #:install-plan
           #~'(("lighter" "bin/")
               ("lighter-agent" "bin/")
               ;; guix-daemon's GUIX.
               ("lighter-guix" "libexec/lighter/")
               ;; The agents that are uploaded to machines.
               ("agents" "lib/lighter/"))))
    (home-page #f)                      ;where you have the sources from
    (synopsis "Have Guix builds done on other machines, over SSH")
    (description
     "Lighter is a build hook for guix-daemon.  It picks for each derivation
the machine that will finish it soonest, sends what that machine lacks, has it
built, and brings the signed outputs home.")
    (license license:expat)))

lighter
