{{/* The names of this release's objects. All contain the release's name, so that releases do not meet. */}}
{{- define "scadles.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "scadles.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "scadles.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "scadles.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "scadles.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "scadles.keySecretName" -}}
{{- .Values.operatorKey.existingSecret | default (printf "%s-operator-key" (include "scadles.fullname" .)) }}
{{- end }}

{{/* True when the key is there as a Secret before the operator starts; otherwise the operator makes it. */}}
{{- define "scadles.keyIsMounted" -}}
{{- if or .Values.operatorKey.create .Values.operatorKey.existingSecret }}true{{ end }}
{{- end }}

{{/* Labels that never change: Deployment and Services select by them. */}}
{{- define "scadles.selectorLabels" -}}
app.kubernetes.io/name: {{ include "scadles.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "scadles.labels" -}}
{{ include "scadles.selectorLabels" . }}
app.kubernetes.io/part-of: scadles
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* scadles.image (dict "image" … "root" $ "variant" "-…"): a reference by digest, or else by tag; the default tag ends in the
variant, if one is given. */}}
{{- define "scadles.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default (print .root.Chart.AppVersion (.variant | default "")) }}
{{- end }}
{{- end }}

{{/* The account of the operator, as a subject of bindings. */}}
{{- define "scadles.subjects" -}}
- kind: ServiceAccount
  name: {{ include "scadles.serviceAccountName" . }}
  namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{/* What the operator does to jobs and to what it makes for them; in all namespaces or in each watched one. */}}
{{- define "scadles.jobRules" -}}
- apiGroups: [scadles.io]
  resources: [scadlesjobs]
  # delete: jobs that set ttlSecondsAfterFinished. patch: the finalizer.
  verbs: [get, list, watch, patch, delete]
- apiGroups: [scadles.io]
  resources: [scadlesjobs/status]
  verbs: [patch, update]
- apiGroups: [scadles.io]
  resources: [scadlesjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps, secrets]
  # No get: what the operator writes it can compute again, and it shall not read what is others'.
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "scadles.kafkaSecretRules" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}

{{/* Combinations that the schema cannot refuse. */}}
{{- define "scadles.validate" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection.enabled) }}
{{- fail "replicas is above 1, so leaderElection.enabled must be true: two operators would supervise the same jobs" }}
{{- end }}
{{- if and .Values.watchNamespaces .Values.kafkaSecrets.namespaces }}
{{- range .Values.kafkaSecrets.namespaces }}
{{- if not (has . $.Values.watchNamespaces) }}
{{- fail (printf "kafkaSecrets.namespaces names %s, which is not in watchNamespaces" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "scadles.needsMonitoring" -}}
{{- if not (.root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
{{- fail (printf "%s.enabled needs the definitions of the Prometheus operator (monitoring.coreos.com/v1), which this cluster does not have; without a cluster add --api-versions monitoring.coreos.com/v1" .value) }}
{{- end }}
{{- end }}
