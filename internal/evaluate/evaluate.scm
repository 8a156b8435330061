;; What "lighter evaluate" has "guix repl" run: prints a JSON line for each package of one system, or
;; cross-built from it for a target. What is wanted comes in the environment, as data:
;;
;;   LIGHTER_SYSTEM, LIGHTER_TARGET   such as x86_64-linux, aarch64-linux-gnu (empty: this computer's, not cross-built)
;;   LIGHTER_WHAT                     all, folders, modules or manifest
;;   LIGHTER_MODULES                  of modules: their names, one a line, "gnu packages base"
;;   LIGHTER_MANIFEST                 of manifest: a file
;;   LIGHTER_FOLDERS                  of folders: those whose packages are wanted, with colons between them
;;   LIGHTER_PACKAGE                  a regular expression for NAME@VERSION, or empty
;;   LIGHTER_GRAFTS                   yes or no
;;   LIGHTER_ROOT                     a folder for a link that keeps the derivations from garbage collection, or empty
(use-modules (guix store) (guix packages) (guix derivations) (guix grafts) (guix licenses) (guix profiles)
             (guix discovery) (guix utils) (guix gexp) (guix ui) (guix diagnostics)
             (gnu packages) (json)
             (srfi srfi-1) (srfi srfi-34) (srfi srfi-35)
             (ice-9 match) (ice-9 regex))

(define (setting name) (or (getenv (string-append "LIGHTER_" name)) ""))

(define system (match (setting "SYSTEM") ("" (%current-system)) (system system)))
(define target (match (setting "TARGET") ("" #f) (target target)))
(define graft? (string=? (setting "GRAFTS") "yes"))
(define root
  (match (setting "ROOT")
    ("" #f)
    (folder (string-append folder "/" system (if target (string-append "-to-" target) "")))))

;; The lines have a port of their own: whatever packages print goes where errors go.
(define lines (dup->outport (current-output-port)))
(set-port-encoding! lines "UTF-8")
(setvbuf lines 'block 65536)
(dup2 2 1)

(define (line fields)
  (scm->json (filter cdr fields) lines)
  (newline lines)
  (force-output lines))

(define (texinfo thing)                ;the text of a synopsis or a description, translated or not
  (and (string? thing) (not (string-null? thing)) thing))

(define (explain key args)
  "Say what went wrong, in Guix's words where there are some."
  (define (print-it)
    (call-with-output-string
      (lambda (port) (print-exception port #f key args))))
  (match (cons key args)
    (((or '%exception 'srfi-34) object . _)
     (cond ((formatted-message? object)
            (apply format #f (gettext (formatted-message-string object) "guix")
                   (formatted-message-arguments object)))
           ((store-protocol-error? object) (store-protocol-error-message object))
           ((message-condition? object) (condition-message object))
           ((package-input-error? object)
            (format #f "package '~a' has an invalid input: ~s"
                    (package-full-name (package-error-package object))
                    (package-error-invalid-input object)))
           (else (print-it))))
    (('syntax-error _ message properties form . _)
     (let ((location (and properties (source-properties->location properties))))
       (if location
           (format #f "~a: ~a: ~s" (location->string location) message form)
           (format #f "~a: ~s" message form))))
    (_ (print-it))))

(define (shorten text)
  (let ((text (string-trim-both text)))
    (if (> (string-length text) 10000) (string-take text 10000) text)))

(define (failure key args)
  (shorten (catch #t
             (lambda () (explain key args))
             (lambda _ (format #f "~a: ~s" key args)))))

(define (try thunk failed)
  "Call THUNK; if it does not return, return what FAILED makes of the reason."
  (catch #t thunk
         (lambda (key . args)
           (failed (if (eq? key 'quit) "its code calls exit" (failure key args))))))

(define (not-loaded file module args)
  (line `(("module" . ,(object->string module))
          ("error" . ,(failure (car args) (cdr args))))))

;; ---- which packages -------------------------------------------------------------------------

(define wanted?
  (match (setting "PACKAGE")
    ("" (const #t))
    (pattern
     (let ((pattern (catch 'regular-expression-syntax
                      (lambda () (make-regexp pattern))
                      (lambda (key proc message . _)
                        (leave (G_ "--package ~a: ~a~%") pattern message)))))
       (lambda (package)
         (regexp-exec pattern (string-append (package-name package) "@" (package-version package))))))))

(define (named-modules)
  (filter-map (lambda (name)
                (let ((module (map string->symbol (string-tokenize name))))
                  (catch #t
                    (lambda () (resolve-interface module))
                    (lambda args (not-loaded #f module args) #f))))
              (string-split (setting "MODULES") #\newline)))

(define (modules)
  (match (setting "WHAT")
    ("all" (all-modules (%package-module-path) #:warn not-loaded))
    ("folders" (all-modules (string-split (setting "FOLDERS") #\:) #:warn not-loaded))
    ("modules" (named-modules))))

(define (with-replacements packages)
  (append-map (lambda (package)
                (match (false-if-exception (package-replacement package))
                  ((? package? replacement)
                   (list (cons package #f) (cons replacement #t)))
                  (_ (list (cons package #f)))))
              packages))

(define (candidates)
  "Return pairs of something to lower and whether it is a replacement."
  (if (string=? (setting "WHAT") "manifest")
      (map (lambda (entry) (cons entry #f))
           (manifest-entries
            (load* (setting "MANIFEST") (make-user-module '((guix profiles) (gnu))))))
      (delete-duplicates/fast
       (with-replacements
        (filter wanted? (fold-packages cons '() (modules)))))))

(define (delete-duplicates/fast pairs)
  (let ((seen (make-hash-table)))
    (filter (match-lambda
              ((package . _)
               (and (not (hashq-ref seen package))
                    (hashq-set! seen package #t))))
            pairs)))

;; ---- their derivations ----------------------------------------------------------------------

(define (derivation-of store package)
  "Return the derivation of PACKAGE, or #f where it is not for this system or target."
  (if target
      (guard (c ((package-cross-build-system-error? c) #f)
                ((unsupported-cross-compilation-target-error? c) #f))
        (package-cross-derivation store package target system #:graft? graft?))
      (and (supported-package? package system)
           (package-derivation store package system #:graft? graft?))))

(define (lower store thing)
  (cond ((package? thing) (derivation-of store thing))
        (else (run-with-store store (lower-object thing system #:target target)
                              #:system system #:target target))))

(define (licenses package)
  (match (package-license package)
    ((? license? license) (vector (license-name license)))
    (((? license? licenses) ...) (list->vector (map license-name licenses)))
    (_ #f)))

(define (optional proc thing) (false-if-exception (proc thing)))

(define (about package)
  (let ((location (package-location package)))
    `(("location" . ,(and location
                          `(("file" . ,(location-file location))
                            ("line" . ,(location-line location))
                            ("column" . ,(location-column location)))))
      ("synopsis" . ,(texinfo (optional package-synopsis package)))
      ("description" . ,(texinfo (optional package-description package)))
      ("home-page" . ,(texinfo (optional package-home-page package)))
      ("licenses" . ,(optional licenses package)))))

(define (evaluate store thing replacement?)
  "Print the line of THING and return its derivation's file name, or #f."
  (let* ((entry?  (manifest-entry? thing))
         (item    (if entry? (manifest-entry-item thing) thing))
         (name    (if entry? (manifest-entry-name thing) (package-name thing)))
         (version (if entry? (manifest-entry-version thing) (package-version thing)))
         (what    `(("name" . ,name)
                    ("version" . ,version)
                    ("system" . ,system)
                    ("target" . ,target)
                    ("replacement" . ,replacement?)
                    ,@(if (package? item) (about item) '()))))
    (match (try (lambda () (lower store item)) identity)
      ((? derivation? drv)
       (let ((file (derivation-file-name drv)))
         (add-temp-root store file)
         (line `(,@what
                 ("derivation" . ,file)
                 ("outputs" . ,(map (match-lambda
                                      ((name . output) (cons name (derivation-output-path output))))
                                    (derivation-outputs drv)))))
         file))
      ((? string? reason)
       (line `(,@what ("error" . ,reason)))
       #f)
      (_ #f))))

(define (unique sorted)                 ;delete-duplicates takes minutes for all of Guix
  (fold-right (lambda (file result)
                (if (and (pair? result) (string=? file (car result))) result (cons file result)))
              '() sorted))

(define (keep store files)
  "Make ROOT a link to a file of the store that refers to all FILES."
  (let* ((files (unique (sort files string<?)))
         (item  (add-text-to-store store "lighter-evaluation" (string-join files "\n") files))
         (new   (string-append root ".new")))
    (false-if-exception (delete-file new))
    (symlink item new)
    (rename-file new root)
    (add-indirect-root store root)))

(unless (member system %supported-systems)
  (leave (G_ "~a: unsupported system; known are: ~a~%") system (string-join %supported-systems ", ")))

(with-store store
  (parameterize ((%current-system system)
                 (%current-target-system target)
                 (%graft? graft?))
    (let ((candidates (candidates)))
      (line `(("total" . ,(length candidates))))
      (let ((files (filter-map (match-lambda
                                 ((thing . replacement?)
                                  (try (lambda () (evaluate store thing replacement?))
                                       (lambda (reason)
                                         (warning (G_ "~a: ~a~%") thing reason)
                                         #f))))
                               candidates)))
        (when (and root (pair? files))
          (keep store files))
        (line '(("done" . #t)))))))
