{{- define "hyperclova.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "hyperclova.jobsNamespace" -}}
{{- .Values.jobs.namespace | default .Release.Namespace -}}
{{- end }}

{{/* Labels of an object: a list of the root context and the component's name. */}}
{{- define "hyperclova.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: hyperclova
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* What a component's pods are known by: never changes. */}}
{{- define "hyperclova.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "hyperclova.image" -}}
{{- $root := index . 0 -}}{{- $image := index $root.Values.images (index . 1) -}}
{{- with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.name }}:{{ $image.tag }}
{{- end }}

{{- define "hyperclova.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "hyperclova.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Of a pod, with its numeric user. */}}
{{- define "hyperclova.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "hyperclova.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "hyperclova.s3Endpoint" -}}
{{- .Values.s3.endpoint | default (ternary (printf "http://%s-s3.%s:8333" (include "hyperclova.name" .) .Release.Namespace) "" .Values.s3.builtin.enabled) -}}
{{- end }}

{{- define "hyperclova.claimName" -}}
{{- .Values.warehouse.claim.existing | default (printf "%s-warehouse" (include "hyperclova.name" .)) -}}
{{- end }}
