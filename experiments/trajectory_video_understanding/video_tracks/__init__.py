"""What a camera gives, without labels: videos, detections, tracks, and the crops that follow them."""
