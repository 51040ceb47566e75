"""From edges to clusters: connected_components, survivors, decisions."""
